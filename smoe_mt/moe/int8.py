"""Products in 8-bit integers, for evaluation on a CPU: each output's weights and each row have a scale of their own.

W_oi = s_o Q_oi and x_ri = t_r P_ri with integers in [-127, 127]; then (W x)_ro = s_o t_r sum_i Q_oi P_ri, where the sum is exact. Scales of
single rows keep a result independent of the other rows of its batch. The integers are multiplied by oneDNN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe.linear import PackedLinear, activate, rows_computed

LARGEST = 127.0
LEAST_ROWS = 4  # of one or two, oneDNN computes some products by plain loops, a hundred times slower
TINY = torch.finfo(torch.float32).tiny


def quantise(x_RI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [R, I], float32 scales [R, 1]): their product is ``x_RI`` to half a scale. A row of zeros has integers of zero."""
    scales_R1 = torch.linalg.vector_norm(x_RI, torch.inf, dim=1, keepdim=True).div_(LARGEST).clamp_min_(TINY)
    return (x_RI / scales_R1).round_().to(torch.int8), scales_R1


class Int8Linear(PackedLinear):
    """As PackedLinear, of float32 weights; the sum over inputs is one of 8-bit integers."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.bias = None if bias_O is None else bias_O.detach()
        integers_OI, scales_O1 = quantise(weight_OI.detach().float())
        self.scales_O, self.zeros_O = scales_O1.flatten(), torch.zeros(len(integers_OI), dtype=torch.int64)
        self.integers = torch.ops.onednn.qlinear_prepack(integers_OI, None)

    def __call__(self, x_RI: Tensor, activation: str = "none", plus_RO: Tensor | None = None) -> Tensor:
        """act(W x + b), or W x + b + ``plus_RO``; [R, O]."""
        rows = len(x_RI)
        integers_RI, scales_R1 = quantise(x_RI)
        more = max(LEAST_ROWS, rows_computed(rows)) - rows
        if more:
            integers_RI = F.pad(integers_RI, (0, 0, 0, more))
        sums_RO = torch.ops.onednn.qlinear_pointwise(
            integers_RI, 1.0, 0, self.integers, self.scales_O, self.zeros_O, None, 1.0, 0, torch.float32, "none", [], ""
        )
        sums_RO = sums_RO[:rows]
        y_RO = sums_RO.mul_(scales_R1) if self.bias is None else torch.addcmul(self.bias, sums_RO, scales_R1)
        return activate(y_RO, activation) if plus_RO is None else y_RO.add_(plus_RO)


def check_int8(device: torch.device) -> None:
    """UserError where these products cannot be computed, or would be slower or wrong."""
    if device.type != "cpu":
        raise UserError(f"int8 is for CPUs, not for {device.type}: use fp16 or bf16 there")
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")):
        raise UserError("this torch has no int8 products (it was built without oneDNN): use fp32")
    if not torch.cpu._is_vnni_supported():
        raise UserError("int8 needs a processor with VNNI (AVX512-VNNI or newer), and this one has none: use fp32")
