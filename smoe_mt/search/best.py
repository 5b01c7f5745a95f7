"""The best continuations of a sentence's beams, without sorting: first the best groups of entries, then the best entries of these."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 64  # entries of a group


def best_of_sentences(logprobs_BKV: Tensor, scores_BK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest of ``logprobs_BKV + scores_BK`` of each sentence, the largest first; [B, count] each.

    Returns the sums, their tokens and their beams. Of equal ones any may come.

    The best ``count`` entries lie in the ``count`` groups with the largest maxima, or in what is left over at each beam's end.
    """
    beams, vocabulary = logprobs_BKV.shape[1:]
    groups = vocabulary // GROUP
    if groups * beams <= 2 * count:
        best = (logprobs_BKV + scores_BK[:, :, None]).flatten(1).topk(count)
        return best.values, best.indices % vocabulary, best.indices // vocabulary
    grouped_BKGN = logprobs_BKV[:, :, : groups * GROUP].unflatten(2, (groups, GROUP))
    maxima_BKG = grouped_BKGN.amax(dim=3).add_(scores_BK[:, :, None])
    group_BC = maxima_BKG.flatten(1).topk(count, sorted=False).indices
    beam_BC = group_BC // groups
    start_BC = group_BC * GROUP + beam_BC * (vocabulary - groups * GROUP)
    entry_BCN = start_BC[:, :, None] + torch.arange(GROUP, device=start_BC.device)
    entry_BM = entry_BCN.flatten(1)
    taken_BCN = logprobs_BKV.flatten(1).gather(1, entry_BM).view(entry_BCN.shape)
    taken_BM = taken_BCN.add_(scores_BK.gather(1, beam_BC)[:, :, None]).flatten(1)
    if groups * GROUP < vocabulary:
        token_L = torch.arange(groups * GROUP, vocabulary, device=start_BC.device)
        left_KL = torch.arange(beams, device=start_BC.device)[:, None] * vocabulary + token_L
        left_BKL = logprobs_BKV[:, :, groups * GROUP :] + scores_BK[:, :, None]
        taken_BM = torch.cat([taken_BM, left_BKL.flatten(1)], dim=1)
        entry_BM = torch.cat([entry_BM, left_KL.flatten().expand(len(entry_BM), -1)], dim=1)
    best = taken_BM.topk(count)
    entry_BC = entry_BM.gather(1, best.indices)
    return best.values, entry_BC % vocabulary, entry_BC // vocabulary
