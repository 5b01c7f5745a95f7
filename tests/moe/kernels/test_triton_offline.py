"""All kernels of a block compile for GPUs that are not there, within their shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.slow

SHARED = {80: 163 * 1024, 90: 227 * 1024}
SPILLED = 160  # bytes a thread, of the product that holds three tiles at once

# In a process of its own: kernels are interpreted in that of the tests.
PROGRAM = """
import dataclasses, json, sys, torch
from smoe_mt.moe.kernels.triton_block import tiles
from smoe_mt.moe.kernels.triton_block.operator import run_block
from smoe_mt.moe.kernels.triton_block.records import Operands
from smoe_mt.moe.kernels.triton_block.settings import Settings
from tests.moe.kernels.offline import compile_for
capability = int(sys.argv[1])
tiles.roomy = lambda device: capability == 90
found = []
for tokens, strata, dim, ffn in ((16384, (4, 12), 1024, 4096), (3250, (2, 6), 512, 2048)):
    experts, nested = sum(strata), len(strata) > 1
    firsts = tuple(sum(strata[:i]) for i in range(len(strata)))
    def weight(*shape):
        return torch.empty(shape, device="meta", dtype=torch.bfloat16, requires_grad=True)
    gates = [weight(experts - first, dim) for first in firsts]
    norms = [weight(dim) for _ in range(2 * len(strata) * nested)]
    bank = [weight(experts, ffn, dim), weight(experts, ffn), weight(experts, dim, ffn), weight(experts, dim)]
    settings = Settings(firsts, 2, nested, 2.0, False, "relu").text()
    orders, biases = [], []
    next_gate = torch.empty(experts, dtype=torch.int64, device="meta")
    def launch():
        y, balance, *_ = run_block(Operands(weight(tokens, dim), None, next_gate, None, orders, gates, biases, norms, bank), settings, False)
        torch.autograd.backward((y, balance), (torch.empty_like(y), torch.empty_like(balance)))
    found += compile_for(capability, launch)
print(json.dumps([dataclasses.asdict(one) for one in found], default=str))
"""


@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_and_fit(capability: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(capability)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout.splitlines()[-1])
    assert {"route_kernel", "product_kernel", "weight_gradient_kernel", "norm_gradient_kernel"} <= {
        kernel["name"] for kernel in kernels
    }
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[capability], kernel
        assert kernel["stack"] <= SPILLED, kernel
