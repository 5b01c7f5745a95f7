"""Experts' weights in oneDNN's own order, for evaluation with few rows an expert on a CPU: each step of a decoder.

A product with few rows costs what reading and rearranging its weights costs. Rearranged once, they are read only. They
take as much memory again as the experts that were asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MOST_ROWS = 64  # rows of an expert up to which packed weights are faster (AVX2, one thread: 0.66 of the time at 6 rows)
FEW_ROWS, ROWS_TOGETHER = 16, 4  # up to the first, a product has just its rows; then the next multiple of the second


class PackedWeights:
    """Packed weights of single experts, made when first asked for and again when the weights have changed.

    Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}
        self._version: tuple[int, ...] = ()

    def check(self, version: tuple[int, ...]) -> None:
        """Forget what was packed of other weights than those of this version of the bank."""
        if version != self._version:
            self._packed, self._version = {}, version

    def of(self, e: int, w_in: Tensor, w_out: Tensor) -> tuple[Tensor, Tensor]:
        """Packed weights of expert ``e`` of the version last checked; w_in [F, D] and w_out [D, F] given."""
        if e not in self._packed:
            pack = torch.ops.mkldnn._reorder_linear_weight
            self._packed[e] = pack(w_in.detach(), MOST_ROWS), pack(w_out.detach(), MOST_ROWS)
        return self._packed[e]

    def drop(self) -> None:
        self._packed = {}

    def __reduce__(self) -> Any:
        return PackedWeights, ()


def packable(weight: Tensor) -> bool:
    """Whether weights like this one can be packed here."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return known and weight.device.type == "cpu" and weight.dtype is torch.float32 and not weight.is_inference()


def packed_linear(x_SI: Tensor, packed: Tensor, bias_O: Tensor) -> Tensor:
    """x W^T + b; [S, O]."""
    rows = len(x_SI)
    more = rows_computed(rows) - rows
    if more:
        x_SI = functional.pad(x_SI, (0, 0, 0, more))
    y_SO: Tensor = torch.ops.mkldnn._linear_pointwise(x_SI, packed, bias_O, "none", [], "")
    return y_SO[:rows] if more else y_SO


def rows_computed(rows: int) -> int:
    """Rows of a product, rounded up: oneDNN keeps half a megabyte for each number of rows that it was ever asked for."""
    return rows if rows <= FEW_ROWS else rows + -rows % ROWS_TOGETHER
