"""Selectors for the experts of an FFN that was cut: made, trained, and compared with the best choice.

The mlp's training is that of the paper's code: two matrices without biases, the first one starts as the experts' mean rows, the
second one as the identity; the target is the sum of an expert's activations over the largest of the batch; binary
cross-entropy, Adam, batches of 512. Kept is the epoch with the lowest loss on tokens that were held out (the released code
keeps the second best one, by a mistake).
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe.routers.top_k import choose
from smoe_mt.moe.systems.moefied import MLPSelector, SimilaritySelector, activity, chosen_of

LEARNING_RATE, BATCH = 0.01, 512
HELD_OUT = 10  # one token of so many
TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class Slices:
    """The experts of an FFN: w_in [E, F, D], b_in [E, F]."""

    w_in: Tensor
    b_in: Tensor

    @property
    def experts(self) -> int:
        return self.w_in.size(0)

    def activity(self, x_TD: Tensor) -> Tensor:
        """Sum of each expert's activations; [T, E]."""
        with torch.no_grad():
            return torch.cat([activity(part, self.w_in, self.b_in) for part in x_TD.split(TOKENS_AT_ONCE)])


@dataclass(frozen=True)
class Tokens:
    """What an FFN reads, and the activity of its experts there: to train with, and held out; [T, D] and [T, E]."""

    x: Tensor
    sums: Tensor
    held_x: Tensor
    held_sums: Tensor

    @classmethod
    def of(cls, x_TD: Tensor, slices: Slices, seed: int) -> Tokens:
        """One token in ten, drawn, is held out. UserError for fewer than ten tokens."""
        if len(x_TD) < HELD_OUT:
            raise UserError(
                f"--sentences: the text has {len(x_TD)} tokens, too few to choose experts by; read more of it"
            )
        order = torch.randperm(len(x_TD), generator=torch.Generator().manual_seed(seed))
        held, used = order[: len(x_TD) // HELD_OUT], order[len(x_TD) // HELD_OUT :]
        x, held_x = (x_TD[part].to(slices.w_in) for part in (used, held))
        return cls(x, slices.activity(x), held_x, slices.activity(held_x))


@dataclass(frozen=True)
class Quality:
    """Of a choice of experts on tokens that were held out; means over tokens.

    kept    share of the activation that the chosen experts hold
    best    the same of the experts that hold most
    recall  share of those experts that were chosen
    """

    kept: float
    best: float
    recall: float


def quality(scores_TE: Tensor, sums_TE: Tensor, share: float) -> Quality:
    """Of the experts with the highest scores. Tokens for which nothing fires do not count."""
    fires = sums_TE.sum(dim=1) > 0
    scores_TE, sums_TE = scores_TE[fires], sums_TE[fires]
    if not len(sums_TE):
        return Quality(1.0, 1.0, 1.0)
    chosen = chosen_of(share, sums_TE.size(1))
    total_T = sums_TE.sum(dim=1)
    picked_TK, best_TK = choose(scores_TE, chosen), choose(sums_TE, chosen)
    kept, best = ((sums_TE.gather(1, each).sum(dim=1) / total_T).mean().item() for each in (picked_TK, best_TK))
    hit = torch.zeros_like(sums_TE, dtype=torch.bool).scatter_(1, best_TK, True)
    return Quality(kept, best, hit.gather(1, picked_TK).float().mean().item())


def similarity_selector(slices: Slices, share: float) -> SimilaritySelector:
    """Each expert's centre is the mean of its rows of W_in."""
    made = SimilaritySelector(slices.w_in.size(2), slices.experts, chosen_of(share, slices.experts)).to(slices.w_in)
    made.centre.copy_(slices.w_in.mean(dim=1))
    return made


def mlp_selector(
    slices: Slices, tokens: Tokens, share: float, seed: int, epochs: int, seconds: float
) -> tuple[MLPSelector, int]:
    """The trained selector, and how many epochs it was trained: no more of them begin after ``seconds``."""
    made = MLPSelector(slices.w_in.size(2), slices.experts, chosen_of(share, slices.experts)).to(slices.w_in)
    made.w_1.copy_(F.normalize(slices.w_in, dim=2).mean(dim=1))
    best, lowest = copy.deepcopy(made.state_dict()), _loss(made, tokens.held_x, tokens.held_sums).item()
    made.requires_grad_(True)
    adam = torch.optim.Adam(made.parameters(), lr=LEARNING_RATE)
    drawn, end, done = torch.Generator().manual_seed(seed), time.monotonic() + seconds, 0
    while done < epochs and time.monotonic() < end:
        for batch in torch.randperm(len(tokens.x), generator=drawn).split(BATCH):
            adam.zero_grad()
            _loss(made, tokens.x[batch], tokens.sums[batch]).backward()
            adam.step()
        done += 1
        with torch.no_grad():
            held = _loss(made, tokens.held_x, tokens.held_sums).item()
        if held < lowest:
            best, lowest = copy.deepcopy(made.state_dict()), held
    made.requires_grad_(False)
    made.load_state_dict(best)
    return made, done


def _loss(selector: MLPSelector, x_TD: Tensor, sums_TE: Tensor) -> Tensor:
    target_TE = sums_TE / sums_TE.max().clamp(min=torch.finfo(sums_TE.dtype).tiny)
    return F.binary_cross_entropy_with_logits(selector.logits(x_TD), target_TE)
