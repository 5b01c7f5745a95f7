"""Experts' weights ready for evaluation on a CPU with few rows an expert: each step of a decoder.

They take as much memory again as the experts that were asked.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from smoe_mt.moe.linear import PackedLinear


class PackedWeights:
    """Both products of single experts, made when first asked for and again when the weights have changed.

    Copies and pickles are empty.

    linear  what makes a product ready: PackedLinear, or Int8Linear
    """

    def __init__(self, linear: type[PackedLinear] = PackedLinear) -> None:
        self.linear = linear
        self._packed: dict[int, tuple[PackedLinear, PackedLinear]] = {}
        self._version: tuple[int, ...] = ()

    def check(self, version: tuple[int, ...]) -> None:
        """Forget what was packed of other weights than those of this version of the bank."""
        if version != self._version:
            self._packed, self._version = {}, version

    def get(self, e: int) -> tuple[PackedLinear, PackedLinear] | None:
        """Both products of expert ``e``, if they are made."""
        return self._packed.get(e)

    def of(self, e: int, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> tuple[PackedLinear, PackedLinear]:
        """Both products of expert ``e`` of the version last checked; w_in [F, D] and w_out [D, F] given."""
        if e not in self._packed:
            self._packed[e] = self.linear(w_in, b_in), self.linear(w_out, b_out)
        return self._packed[e]

    def drop(self) -> None:
        self._packed = {}

    def __reduce__(self) -> Any:
        return PackedWeights, (self.linear,)
