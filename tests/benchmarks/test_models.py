"""FLOPs as counted are those of the products: training, and evaluation with packed weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.models import count_flops
from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import installed, interpreted
from smoe_mt.moe.routers.base import routers_of
from smoe_mt.moe.system import STRATA
from tests.moe.settings import settings_of


def test_counts_every_product_of_a_block() -> None:
    block = MoE(16, 24, 3, capacity_factor=0)
    x = torch.randn(50, 16, requires_grad=True)
    gate, ffn = 2 * 50 * 16 * 3, 2 * 2 * 100 * 16 * 24
    biases = 2 * 100 * (24 + 16)  # gradients of the biases, some of them as products
    training = count_flops(lambda: block(x)[0].sum().backward())
    assert 3 * (gate + ffn) - gate <= training <= 3 * (gate + ffn) + biases

    block.eval()

    def evaluate() -> None:
        with torch.no_grad():
            block(x.detach())

    # Products with packed weights have a few more rows than were asked for, at each expert.
    assert gate + ffn <= count_flops(evaluate) <= gate + ffn + 3 * 3 * 4 * 16 * 24


def test_grouped_products_count_as_one_product_for_each_expert_does() -> None:
    """Of rows that were served: behind them the grouped product's buffers are larger."""
    torch.manual_seed(0)
    loop, grouped = (MoE(16, 24, 3, capacity_factor=0.5, backend=backend) for backend in ("loop", "grouped"))
    grouped.load_state_dict(loop.state_dict())
    x, mask = torch.randn(1, 50, 16), torch.rand(1, 50) < 0.3
    gate, biases = 2 * 50 * 16 * 3, 2 * 4 * 100 * (24 + 16)  # the bias gradients are products of their own

    def forward(block: MoE) -> int:
        return count_flops(lambda: block(x, mask))

    def both(block: MoE) -> int:
        return count_flops(lambda: block(x, mask)[0].sum().backward())

    assert 0 <= forward(grouped) - forward(loop) <= gate
    assert abs(both(grouped) - both(loop)) <= 3 * gate + biases


def test_triton_kernels_count_as_one_product_for_each_expert_does() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if not interpreted():
        pytest.skip("kernels run on the GPU here")
    torch.manual_seed(0)
    loop, triton = (StratifiedMoE(16, 24, (1, 2), capacity_factor=0.5, backend=name) for name in ("loop", "triton"))
    triton.load_state_dict(loop.state_dict())
    x = torch.randn(1, 20, 16)
    assert 0 <= count_flops(lambda: loop(x)) - count_flops(lambda: triton(x)) <= 2 * 20 * 16 * 2
    both = [count_flops(lambda block=block: block(x)[0].sum().backward()) for block in (loop, triton)]
    assert abs(both[0] - both[1]) <= 0.05 * both[0]


def made(name: str, backend: str) -> Any:
    """A system's block in evaluation, where nothing is drawn, with gates that send tokens different ways."""
    groups = (2, 3) if SYSTEMS[name].experts_setting == STRATA else (5,)
    torch.manual_seed(0)
    block = SYSTEMS[name].build(settings_of(name, moe_backend=backend), BlockPlace("encoder", 1, 32, 64, groups))
    for router in routers_of(block):
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter)
    return block.eval()


@pytest.mark.parametrize("backend", ["grouped", "triton"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_counts_alike_with_every_backend(name: str, backend: str) -> None:
    if backend == "triton" and not (installed() and interpreted()):
        pytest.skip("no Triton kernels on a CPU here")
    loop, other = made(name, "loop"), made(name, backend)
    x = torch.randn(1, 7, 32)

    def train(block: Any) -> int:
        return count_flops(lambda: block(x)[0].sum().backward())

    try:
        one, another = train(loop), train(other)
    except UserError as error:
        assert backend == "grouped" and "FFNs of one size" in str(error)
        return
    # With other backends later gates see positions that are not theirs, too; gradients of biases are products of their own.
    gates = 3 * 2 * x[..., 0].numel() * sum(weight.numel() for gate in routers_of(loop) for weight in gate.parameters())
    biases = 2 * 4 * sum(int(load.served.sum()) for load in loop(x)[1].load) * (64 + 32)
    assert abs(one - another) <= gates + biases < 0.5 * one
