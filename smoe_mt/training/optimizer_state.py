"""What a checkpoint says of the optimiser, checked before the first update is made with it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

MOMENTS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
)  # of fairseq's Adam and NAG: a number for each weight


def check_optimizer_state(optimizer: Optimizer) -> None:
    """ValueError for settings of parameter groups that are no finite numbers, and for moments of other shapes than their weights."""
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params" and not all(map(_is_plain, value if isinstance(value, (list, tuple)) else [value])):
                raise ValueError(f"the optimiser's {name} is no finite number: {str(value)[:60]}")
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            for name in MOMENTS:
                moment = state.get(name)
                if moment is not None and not (isinstance(moment, Tensor) and moment.shape == weight.shape):
                    raise ValueError(f"the optimiser's {name} does not fit a weight of {tuple(weight.shape)}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(value.isfinite().all())
    return value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value))
