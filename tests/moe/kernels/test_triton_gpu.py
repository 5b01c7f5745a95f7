"""The Triton kernels on a GPU: bf16 beside float64, no wait of the host, capture in a graph, the same result every time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.kernels.fused import kernel_name
from smoe_mt.moe.routers.base import Weighting, routers_of
from smoe_mt.moe.routers.bias import LoadBias

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or interpreted(), reason="there is no GPU"),
]

DIM, FFN = 256, 512


def with_z(block: nn.Module) -> nn.Module:
    """With z-losses."""
    for router in routers_of(block):
        router.request_losses(("z",))
    return block


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: MoE(DIM, FFN, 8, backend="triton"),
    "switch": lambda: MoE(DIM, FFN, 8, top_k=1, backend="triton"),
    "strata": lambda: StratifiedMoE(DIM, FFN, (2, 2, 4), backend="triton"),
    "release": lambda: StratifiedMoE(DIM, FFN, (2, 6), variant="release", backend="triton"),
    "raw weights": lambda: MoE(DIM, FFN, 8, weighting=Weighting.RAW, backend="triton"),
    "biases and z-loss": lambda: with_z(
        StratifiedMoE(DIM, FFN, (2, 2, 4), gate_bias=True, load_bias=LoadBias(0.01), backend="triton")
    ),
    "drawing": lambda: StratifiedMoE(
        DIM, FFN, (2, 6), dropout=0.1, eom_p=0.1, second_choice="gumbel", backend="triton"
    ),
}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return BLOCKS[request.param]().to("cuda", torch.bfloat16)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(3, 333, DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    return x, torch.rand(3, 333, device="cuda") < 0.2


@pytest.fixture
def waiting_forbidden() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A graph that is freed while another is captured makes the capture invalid."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def step(block: Any, x: Tensor, mask: Tensor) -> list[Tensor]:
    """The output and all gradients; scalars' own gradients are made beforehand, which copies from the host."""
    y, routing = block(x, mask)
    losses = torch.stack([*routing.losses.values()])
    ones = torch.ones_like(y), torch.ones_like(losses)
    return [y, *torch.autograd.grad((y, losses), [x, *block.parameters()], ones)]


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity_factor", [0.0, 0.7])
def test_bf16_is_near_float64(top_k: int, capacity_factor: float, inputs: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    x, mask = inputs
    block: Any = MoE(DIM, FFN, 8, top_k=top_k, capacity_factor=capacity_factor, backend="triton").to(
        "cuda", torch.bfloat16
    )
    with torch.no_grad():
        block.gate.weight.mul_(8)
    exact: Any = MoE(DIM, FFN, 8, top_k=top_k, capacity_factor=capacity_factor, backend="loop").to(
        "cuda", torch.float64
    )
    exact.load_state_dict(block.state_dict())
    for got, want in zip(step(block, x, mask), step(exact, x.double(), mask), strict=True):
        assert (got.double() - want).norm() <= 2e-2 * want.norm()


def test_steps_do_not_wait(block: nn.Module, inputs: tuple[Tensor, Tensor], request: pytest.FixtureRequest) -> None:
    step(block, *inputs)  # kernels are compiled
    request.getfixturevalue("waiting_forbidden")
    step(block, *inputs)


@pytest.mark.usefixtures("no_collection")
def test_step_is_captured_in_a_graph(block: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(block, *inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(block, *inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert all(value.isfinite().all() for value in captured)
    if getattr(block, "dropout", 0) == 0:
        assert all(map(torch.equal, captured, step(block, *inputs)))


@pytest.mark.usefixtures("no_collection")
def test_steps_are_captured_after_one_eager_pass_of_any_shape(block: nn.Module) -> None:
    for tokens in (50, 4000, 300, 50, 9000):
        x = torch.randn(1, tokens, DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        mask = torch.rand(1, tokens, device="cuda") < 0.2
        step(block, x, mask)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(block, x, mask)
        graph.replay()
        torch.cuda.synchronize()
        assert all(value.isfinite().all() for value in captured)


@pytest.mark.parametrize("kind", ["plain", "strata"])
def test_compiled_block_equals_eager(kind: str, inputs: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    block = BLOCKS[kind]().to("cuda", torch.bfloat16)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for got, want in zip(step(compiled, *inputs), step(block, *inputs), strict=True):
        assert (got - want).float().norm() <= 2e-2 * want.float().norm()


def test_results_are_the_same_every_time(block: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(2)
        results.append(step(block, *inputs))
    assert all(map(torch.equal, *results))


def test_auto_is_triton() -> None:
    block: Any = MoE(DIM, FFN, 8).to("cuda", torch.bfloat16)
    assert kernel_name(block.parts, torch.zeros(4, DIM, device="cuda", dtype=torch.bfloat16), "auto") == "triton"
