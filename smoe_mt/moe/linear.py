"""y = act(W x + b) (+ a residual) in evaluation: the one class that multiplies by weights which do not change.

On a CPU weights are packed in oneDNN's own order where that pays: a product of few rows costs what reading and rearranging its
weights costs, and rearranged once they are read only. Elsewhere it is torch's product. ``Int8Linear`` is
called alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured with one thread on a CPU with AVX512 and AMX, the weights of 16 experts in turns. Packed products take 0.6 to 0.9 of the time
# with 4 to 48 rows in float32, more than torch's with one or two rows (1.3) or with small weights; in bfloat16 0.5 to 0.8 at all sizes.
LEAST_WEIGHTS = {torch.float32: 1 << 19, torch.bfloat16: 0}  # entries of weights that are packed
LEAST_ROWS = {torch.float32: 4, torch.bfloat16: 1}
MOST_ROWS = {torch.float32: 64, torch.bfloat16: 1 << 30}
#: Rows of a packed product are rounded up to a multiple of the second number where there are more than the first.
STEPS = ((64, 32), (16, 4), (0, 1))
#: oneDNN's names of activations, and of the algorithm.
ACTIVATIONS: Mapping[str, tuple[str, str]] = {
    "none": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "silu": ("swish", ""),
}


class PackedLinear:
    """W [O, I] and b [O] (or None), ready for evaluation. Later changes of the weights may or may not be seen: make a new one."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.weight, self.bias = weight_OI.detach(), None if bias_O is None else bias_O.detach()
        self.packed: Tensor | None = None
        if packable(self.weight) and self.weight.numel() >= LEAST_WEIGHTS[self.weight.dtype]:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, STEPS[0][1])

    def __call__(self, x_RI: Tensor, activation: str = "none", plus_RO: Tensor | None = None) -> Tensor:
        """act(W x + b), or W x + b + ``plus_RO``; [R, O]."""
        dtype = self.weight.dtype
        if self.packed is not None and LEAST_ROWS[dtype] <= len(x_RI) <= MOST_ROWS[dtype]:
            return self._packed_product(x_RI, self.packed, activation, plus_RO)
        y_RO = F.linear(x_RI, self.weight, self.bias)
        return activate(y_RO, activation) if plus_RO is None else y_RO.add_(plus_RO)

    def _packed_product(self, x_RI: Tensor, packed: Tensor, activation: str, plus_RO: Tensor | None) -> Tensor:
        rows = len(x_RI)
        more = rows_computed(rows) - rows
        if more:
            x_RI = F.pad(x_RI, (0, 0, 0, more))
        y_RO: Tensor
        if plus_RO is not None and not more:
            y_RO = torch.ops.mkldnn._linear_pointwise.binary(x_RI, plus_RO, packed, self.bias, "add")
            return y_RO
        name, algorithm = ACTIVATIONS[activation]
        y_RO = torch.ops.mkldnn._linear_pointwise(x_RI, packed, self.bias, name, [], algorithm)
        y_RO = y_RO[:rows] if more else y_RO
        return y_RO if plus_RO is None else y_RO.add_(plus_RO)


def activate(h: Tensor, activation: str) -> Tensor:
    """One of `ACTIVATIONS`, in place where torch can."""
    if activation == "relu":
        return h.relu_()
    if activation == "silu":
        return F.silu(h, inplace=True)
    return F.gelu(h) if activation == "gelu" else h


def packable(weight: Tensor) -> bool:
    """Whether weights like this one can be packed here."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    known = known and weight.device.type == "cpu" and weight.dtype in LEAST_WEIGHTS and not weight.is_inference()
    return known and (weight.dtype is not torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def rows_computed(rows: int) -> int:
    """Rows of a product, rounded up: oneDNN keeps half a megabyte for each number of rows that it was ever asked for."""
    together = next(multiple for more_than, multiple in STEPS if rows > more_than or not more_than)
    return rows + -rows % together
