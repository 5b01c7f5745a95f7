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
SPILLED = 64  # bytes a thread, of the others
GRAD_HIDDEN, AFTER_LOOP = 2, 128  # this product holds three tiles at once after its loop, and was the fastest so (H100)
NOT_SPILLED = 8  # bytes that the compiler takes with registers to spare
LARGE = {"product_kernel", "weight_gradient_kernel"}
OTHERS = {f"{name}_kernel" for name in ("route", "place", "combine", "token_gradient", "gate_gradient", "reduce")}
OF_STRATA = {"pack_kernel", "norm_again_kernel"}
#: Tokens, strata, embed_dim, ffn_dim, precision; and whether gates have biases and a z-loss.
CASES = {
    "wide": (16384, (4, 12), 1024, 4096, "bfloat16", False),
    "narrow": (3250, (2, 6), 512, 2048, "bfloat16", True),
    "float32": (3250, (8,), 512, 2048, "float32", False),
}

# In a process of its own: kernels are interpreted in that of the tests.
PROGRAM = """
import dataclasses, json, sys, torch
from smoe_mt.moe.kernels.triton_block import tiles
from smoe_mt.moe.kernels.triton_block.operator import run_block
from smoe_mt.moe.kernels.triton_block.records import Operands
from smoe_mt.moe.kernels.triton_block.settings import Settings
from tests.moe.kernels.offline import compile_for

capability, (tokens, strata, dim, ffn, dtype, extras) = json.loads(sys.argv[1])
tiles.roomy = lambda device: capability == 90
experts, nested = sum(strata), len(strata) > 1
firsts = tuple(sum(strata[:i]) for i in range(len(strata)))

def weight(*shape):
    return torch.empty(shape, device="meta", dtype=getattr(torch, dtype), requires_grad=True)

gates = [weight(experts - first, dim) for first in firsts]
norms = [weight(dim) for _ in range(2 * len(strata) * nested)]
bank = [weight(experts, ffn, dim), weight(experts, ffn), weight(experts, dim, ffn), weight(experts, dim)]
settings = Settings(firsts, 2, nested, 2.0, False, "relu", z=extras).text()
orders = [torch.empty(gate.size(0), device="meta") for gate in gates] if extras else []
biases = [weight(gate.size(0)) for gate in gates] if extras else []
next_gate = torch.empty(experts, dtype=torch.int64, device="meta")

def launch():
    given = Operands(weight(tokens, dim), None, next_gate, None, orders, gates, biases, norms, bank)
    y, losses, *_ = run_block(given, settings, False)
    torch.autograd.backward((y, losses), (torch.empty_like(y), torch.empty_like(losses)))

print(json.dumps([dataclasses.asdict(one) for one in compile_for(capability, launch)], default=str))
"""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_and_fit(capability: int, case: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = json.dumps((capability, CASES[case]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout.splitlines()[-1])
    names = {kernel["name"] for kernel in kernels}
    assert names >= LARGE | OTHERS
    assert ("norm_gradient_kernel" in names) == (case == "wide")
    assert (names >= OF_STRATA) == (case != "float32")
    assert any(kernel["options"].get("AGAIN") for kernel in kernels) == (
        case == "wide"
    )  # its last gate's rows pass in turns
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[capability], kernel
        most = NOT_SPILLED if kernel["name"] in LARGE else SPILLED
        if kernel["options"].get("KIND") == GRAD_HIDDEN:
            most = AFTER_LOOP
        assert kernel["stack"] <= most, kernel
