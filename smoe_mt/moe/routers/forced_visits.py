"""A number of visits that is forced on all tokens of a stratified block: what their requested capacity is worth to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from smoe_mt.moe.routers.base import Choices
from smoe_mt.moe.routers.top_k import choose
from smoe_mt.moe.strata import parse_strata, visible_experts


@dataclass(frozen=True)
class ForcedVisits:
    """The ``k`` most probable experts of one stratum: gates 1 to ``visits`` - 1 send all tokens to an expert of their own
    stratum, the next one to an expert of the last. So each token makes ``visits`` visits, to the strata 1 to ``visits`` - 1
    and the last; 1: the last one alone; the number of strata: all of them. For ``routing_override`` of one block.

    A stratum with fewer than ``k`` experts serves with those that it has.

    Raises:
        ValueError: visits that ``strata`` do not allow, or a ``k`` below 1.
    """

    strata: Sequence[int]
    visits: int
    k: int = 2
    takes_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        strata = parse_strata(self.strata)
        if not 1 <= self.visits <= len(strata):
            raise ValueError(f"{self.visits} visits: a block with strata {strata} has 1 to {len(strata)} of them")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def __call__(self, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
        order_TE = probs_TE if order_TE is None else order_TE
        first, size = self._allowed(order_TE.size(1))
        experts_TK = first + choose(order_TE[:, first : first + size], min(self.k, size))
        return Choices(experts_TK, experts_TK[:, 0])

    def check(self, visible: int, where: str) -> None:
        if visible not in visible_experts(parse_strata(self.strata)):
            raise ValueError(f"{where} sees {visible} experts, which is no gate of strata {parse_strata(self.strata)}")

    def _allowed(self, visible: int) -> tuple[int, int]:
        """Of a gate that sees so many experts: the first that it may choose, and how many."""
        strata = parse_strata(self.strata)
        gate = visible_experts(strata).index(visible)
        if gate < self.visits - 1:
            return 0, strata[gate]
        return visible - strata[-1], strata[-1]
