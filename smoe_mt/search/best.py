"""The best entries of long rows, without sorting them: first the best groups of entries, then the best entries of these."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 64  # entries of a group


def best_of_rows(scores_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, the largest first, and their places; [R, count] each. Of equal ones any may come.

    The best ``count`` entries lie in the ``count`` groups with the largest maxima, or in what is left over at the end.
    """
    rows, length = scores_RV.shape
    groups = length // GROUP
    if groups <= 2 * count:
        best = scores_RV.topk(count)
        return best.values, best.indices
    grouped_RGN = scores_RV[:, : groups * GROUP].unflatten(1, (groups, GROUP))
    group_RC = grouped_RGN.amax(dim=2).topk(count, sorted=False).indices
    taken_RCN = grouped_RGN.gather(1, group_RC[:, :, None].expand(rows, count, GROUP))
    taken_RM, place_RM = taken_RCN.flatten(1), group_RC
    if groups * GROUP < length:
        taken_RM = torch.cat([taken_RM, scores_RV[:, groups * GROUP :]], dim=1)
        # The entries left over are a last group, which begins where the others end.
        place_RM = torch.cat([group_RC, group_RC.new_full((rows, 1), groups)], dim=1)
    best = taken_RM.topk(count)
    group = place_RM.gather(1, best.indices // GROUP)
    return best.values, group * GROUP + best.indices % GROUP
