"""torch's compiler stays out of a training."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from smoe_mt.training.compiler import PASSED_OVER, WRAPPED
from smoe_mt.training.fused_adam import TorchAdam

TRAIN = """
import sys, torch
from smoe_mt import register
register()
from smoe_mt.training.compiler import leave_out_compiler
from smoe_mt.training.fused_adam import TorchAdam
leave_out_compiler()
weight = torch.nn.Parameter(torch.ones(3))
optimizer = TorchAdam([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print(sorted(name for name in sys.modules if name in ("torch._dynamo", "torch._inductor")))
"""


def test_an_optimiser_does_not_load_it() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", PASSED_OVER)
def test_torch_wraps_these_methods_as_is_counted_on(name: str) -> None:
    wrapper = getattr(torch.optim.Optimizer, name)
    assert WRAPPED in wrapper.__code__.co_consts, "torch keeps the wrapped function elsewhere"
    assert callable(wrapper.__wrapped__)


def test_a_step_is_torchs_own() -> None:
    weights = [nn.Parameter(torch.arange(1.0, 4.0)) for _ in range(2)]
    ours = TorchAdam([weights[0]], lr=0.1, weight_decay=0.01)
    theirs = torch.optim.AdamW([weights[1]], lr=0.1, weight_decay=0.01, fused=True)
    for optimizer, weight in zip((ours, theirs), weights):
        for _ in range(3):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    assert torch.equal(*weights)
    assert weights[0].requires_grad
