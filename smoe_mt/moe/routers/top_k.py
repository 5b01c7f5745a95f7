"""The k most probable experts of each token (GShard, Switch), and the k-th alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from smoe_mt.moe.routers.base import Choices

SECOND_CHOICES = ("argmax", "gumbel")
# Choices up to which argmax is repeated; a sort gives the same, at a cost that does not grow with their number.
MOST_PASSES = 4


@dataclass(frozen=True)
class TopK:
    """The ``k`` most probable experts, best first; the first one leads.

    second_choice  "argmax", or "gumbel": all choices but the first are drawn with noise, in evaluation too (released code)

    Raises:
        ValueError: k below 1, or an unknown second_choice.
    """

    k: int
    second_choice: str = "argmax"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.k}")
        if self.second_choice not in SECOND_CHOICES:
            known = ", ".join(SECOND_CHOICES)
            raise ValueError(f"unknown second_choice {self.second_choice!r}: choose one of {known}")

    @property
    def takes_order(self) -> bool:
        """Noise is drawn by the probabilities."""
        return self.second_choice == "argmax"

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        experts_TK = choose(probs_TE if order_TE is None else order_TE, self.k, self.second_choice)
        return Choices(experts_TK, experts_TK[:, 0])

    def check(self, visible: int, where: str) -> None:
        if self.k > visible:
            raise ValueError(
                f"top_k={self.k} needs at least {self.k} experts to choose from, but {where} sees {visible}"
            )


@dataclass(frozen=True)
class RankK:
    """The expert with the ``rank``-th largest probability alone, counted from 1; it leads.

    Raises:
        ValueError: a rank below 1.
    """

    rank: int
    takes_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        experts_T1 = choose(probs_TE if order_TE is None else order_TE, self.rank)[:, -1:]
        return Choices(experts_T1, experts_T1[:, 0])

    def check(self, visible: int, where: str) -> None:
        if self.rank > visible:
            raise ValueError(f"rank {self.rank} needs at least {self.rank} experts, but {where} sees {visible}")


def choose(probs_TE: Tensor, top_k: int, second_choice: str = "argmax") -> Tensor:
    """The ``top_k`` most probable experts of each token, best first; ties go to the lowest index; int64 [T, K].

    ``second_choice`` "gumbel": after the first one, the largest of log G plus Gumbel noise, as in the released code.
    Repeated argmax or a stable sort rather than ``topk``, whose order among equals is not defined.
    """
    left_TE = probs_TE.detach()
    if top_k > MOST_PASSES and second_choice == "argmax":
        return left_TE.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    choices: list[Tensor] = []
    for k in range(top_k):
        if k == 1 and second_choice == "gumbel":
            # G / Exp(1) has the same order as log G + Gumbel noise.
            left_TE = left_TE / torch.empty_like(left_TE).exponential_()
        if k:
            left_TE = left_TE.scatter(1, choices[-1].unsqueeze(1), -torch.inf)
        choices.append(left_TE.argmax(dim=1))
    return torch.stack(choices, dim=1)
