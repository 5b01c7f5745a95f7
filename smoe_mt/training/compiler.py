"""Optimisers of torch without torch's compiler, which nothing here uses: importing it takes 140 MB and a second or more.

torch's optimisers import it at their first step, to tell it what to pass over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

#: Methods of an optimiser that the compiler is told to pass over.
PASSED_OVER = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
#: Where torch keeps such a function in the compiler's wrapping.
WRAPPED = "__dynamo_disable"


def leave_out_compiler() -> None:
    """Let `PASSED_OVER` run as they are, in this process. A function that was called before stays as torch has wrapped it."""
    for name in PASSED_OVER:
        function = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(function, WRAPPED):
            setattr(function, WRAPPED, function)


def step_without_compiler(optimizer: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """The method `step` of one of torch's optimisers, to be called without recording gradients."""
    return inspect.unwrap(optimizer.step)
