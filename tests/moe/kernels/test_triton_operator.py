"""The block as an operator of torch: its schema, fake implementation and gradient, and blocks under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.kernels.triton_block.settings import Settings
from smoe_mt.moe.routers.base import routers_of

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not interpreted(), reason="kernels run on the GPU here: see the tests marked gpu")

DIM, FFN = 16, 24


def operands(strata: tuple[int, ...]) -> tuple[Any, ...]:
    def weight(*shape: int) -> Tensor:
        return torch.randn(shape).requires_grad_()

    firsts = tuple(sum(strata[:i]) for i in range(len(strata)))
    experts, nested = sum(strata), len(strata) > 1
    gates = [weight(experts - first, DIM) for first in firsts]
    norms = [weight(DIM) for _ in range(2 * len(strata) * nested)]
    bank = [weight(experts, FFN, DIM), weight(experts, FFN), weight(experts, DIM, FFN), weight(experts, DIM)]
    next_gate = torch.tensor([i + 1 for i, size in enumerate(strata) for _ in range(size)])
    settings = Settings(firsts, 2, nested, 2.0, False, "relu", z=True).text()
    orders, biases = ([draw(gate.size(0)) for gate in gates] for draw in (torch.randn, weight))
    return weight(7, DIM), torch.rand(7) < 0.2, next_gate, None, orders, gates, biases, norms, bank, settings, True


@pytest.mark.parametrize("strata", [(3,), (2, 3)])
def test_operator_passes_torchs_own_checks(strata: tuple[int, ...]) -> None:
    from smoe_mt.moe.kernels.triton_block import operator

    torch.manual_seed(0)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operator._block, operands(strata), test_utils=tests)


@pytest.mark.parametrize("kind", ["plain", "strata"])
def test_compiled_block_equals_eager(kind: str) -> None:
    torch.manual_seed(0)
    block: nn.Module = MoE(DIM, FFN, 4, backend="triton")
    if kind == "strata":
        block = StratifiedMoE(DIM, FFN, (2, 3), gate_bias=True, backend="triton")
        for router in routers_of(block):
            router.request_losses(("z",))
    x, mask = torch.randn(2, 5, DIM), torch.rand(2, 5) < 0.3
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    results = []
    for run in (block, compiled):
        y, routing = run(x, mask)
        loss = y.square().sum() + sum(routing.losses.values())
        results.append([y, routing.visits, *torch.autograd.grad(loss, list(block.parameters()))])
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(other, eager)
