"""Threshold selection (XMoE, HMoE's top-p): the most probable experts, until their probabilities sum to a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from smoe_mt.moe.routers.base import Choices


@dataclass(frozen=True)
class Threshold:
    """The shortest prefix of the experts, sorted by probability, whose sum reaches ``threshold``; never none.

    0 is top-1, and 1 means all experts. The most probable expert leads. Under a capacity, first choices are served before
    second ones, and among the k-th choices the larger probability first.

    most  experts of a token, at most; None: as many as there are

    Raises:
        ValueError: a threshold outside [0, 1], or ``most`` below 1.
    """

    threshold: float
    most: int | None = None
    takes_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {self.threshold}")
        if self.most is not None and self.most < 1:
            raise ValueError(f"the most experts of a token must be at least 1, not {self.most}")

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        experts = probs_TE.size(1)
        most = min(self.most or experts, experts)
        sorted_TE, best_TE = (
            (probs_TE if order_TE is None else order_TE).detach().sort(dim=1, descending=True, stable=True)
        )
        sorted_TK, best_TK = sorted_TE[:, :most], best_TE[:, :most]
        if order_TE is not None:
            sorted_TK = probs_TE.detach().gather(1, best_TK)
        if self.threshold >= 1:
            return Choices(best_TK, best_TK[:, 0], priority_TK=sorted_TK)
        # In float64: in float32 the sum of many probabilities may pass 1 before all are counted.
        before_TK = sorted_TK.double().cumsum(dim=1) - sorted_TK.double()
        chosen_TK = before_TK < self.threshold
        chosen_TK[:, 0] = True
        if may_sync:  # so that a gate costs what is chosen
            most = int(chosen_TK.any(dim=0).sum().clamp(min=1))
        experts_TK = best_TK.masked_fill(~chosen_TK, experts)[:, :most]
        return Choices(experts_TK, best_TK[:, 0], complete=most == 1, priority_TK=sorted_TK[:, :most])

    def check(self, visible: int, where: str) -> None:
        """Any number of experts will do."""

    def expected_choices(self, visible: int) -> float:
        """Choices of a token whose probabilities are uniform over ``visible`` experts."""
        wanted = max(1, math.ceil(self.threshold * visible - 1e-9))
        return min(wanted, self.most or visible, visible)
