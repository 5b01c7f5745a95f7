"""Balance without a loss (Wang et al. 2024, arXiv 2408.15664; DeepSeek-V3): a bias per expert, for selection alone.

    chosen = the experts of largest p_e + b_e;   y = sum over chosen e of weight(p_e) FFN_e(x)
    after each update, b_e += u sign(mean load - load_e)

The load of an expert is the number of choices that ask for it, over all batches and ranks of the update. Weights and losses are of
the probabilities p alone, so the translation loss is all that has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WITHIN = ("gate", "stratum")


@dataclass(frozen=True)
class LoadBias:
    """How a block balances the load of its experts by biases.

    step    u
    within  "gate": among all experts that a gate sees; "stratum": among those of each stratum, so that how many tokens go to
            which stratum is left to the gate. A gate of one stratum, or of no strata, sees no difference.

    Raises:
        ValueError: a step that is not positive, or an unknown ``within``.
    """

    step: float
    within: str = "gate"

    def __post_init__(self) -> None:
        if not 0 < self.step < float("inf"):
            raise ValueError(f"balance_bias, the step of the biases, must be positive, not {self.step}")
        if self.within not in WITHIN:
            raise ValueError(f"unknown balance_within {self.within!r}: choose one of {', '.join(WITHIN)}")

    def groups(self, strata: Sequence[int]) -> tuple[int, ...]:
        """The experts among which a gate balances: how many in each group. ``strata``: those that it sees."""
        return tuple(strata) if self.within == "stratum" else (sum(strata),)


def bias_step(load_E: Tensor, groups: Sequence[int], step: float) -> Tensor:
    """u sign(mean load - load_e), the mean of each group; float64 [E]. ``load_E`` int64 [E]: nothing is rounded.

    With several groups each one's steps are shifted to a sum of 0, or the biases of a group would rise or fall together.
    """
    parts = [(load.sum() - load * load.numel()).sign().double() for load in load_E.split(list(groups))]
    if len(parts) > 1:
        parts = [part - part.mean() for part in parts]
    return step * torch.cat(parts)
