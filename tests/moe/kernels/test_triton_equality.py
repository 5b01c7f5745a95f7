"""The Triton kernels, interpreted, against the equations in float64: outputs, gradients, counts, visits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.routers.base import Weighting, routers_of
from smoe_mt.moe.routers.bias import LoadBias
from tests.moe.kernels.test_select import NoReadingBack
from tests.moe.reference import reference_layers, reference_stratified
from tests.moe.settings import saved_shapes

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not interpreted(), reason="kernels run on the GPU here: see the tests marked gpu")

DIM, FFN = 24, 40


def decided(block: nn.Module) -> nn.Module:
    """Gates whose choices no rounding changes."""
    for name, parameter in block.named_parameters():
        if "gate" in name:
            nn.init.normal_(parameter, std=2.0)
    return block


def in_float64(block: nn.Module) -> Any:
    """The same block for the reference."""
    return copy.deepcopy(block).double()


def tokens(sentences: int, length: int, padding: str, dim: int = DIM) -> tuple[Tensor, Tensor]:
    x = torch.randn(sentences, length, dim)
    mask = torch.zeros(sentences, length, dtype=torch.bool)
    if padding == "some":
        mask = torch.rand(sentences, length) < 0.3
    elif padding == "all":
        mask[:] = True
    return x, mask


def gradients(y: Tensor, loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    grads = torch.autograd.grad((y * weight).sum() + 3 * loss, inputs, allow_unused=True)
    return [torch.zeros_like(value) if grad is None else grad for value, grad in zip(inputs, grads)]


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)


def check_plain(block: Any, x: Tensor, mask: Tensor) -> None:
    other = in_float64(block)
    x, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
    y, routing = block(x, mask)
    want = reference_layers(x64, mask, [other])
    assert_close([y, routing.balance_loss], [want.y, want.balance_loss])
    (load,), (out,) = routing.load, want.passes
    assert (load.asked.tolist(), load.served.tolist(), load.tokens.tolist()) == (
        out.asked,
        out.served,
        out.first_counts,
    )
    assert torch.equal(routing.visits, (~mask).long())
    assert_close(
        gradients(y, routing.balance_loss, [x, *block.parameters()]),
        gradients(want.y, want.balance_loss, [x64, *other.parameters()]),
    )


def check_strata(block: Any, x: Tensor, mask: Tensor) -> None:
    other = in_float64(block)
    x, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
    y, routing = block(x, mask)
    k, factor = other._gate(0).selection.k, block.settings.capacity_factor
    want = reference_stratified(
        x64, mask, block.strata, other.gates, other.norms, other.experts, k, factor, block.training
    )
    assert_close([y, routing.balance_loss], [want.y, want.balance_loss])
    assert torch.equal(routing.visits, want.visits)
    for load, out in zip(routing.load, want.passes, strict=True):
        counts = (load.asked.tolist(), load.served.tolist(), load.tokens.tolist())
        zeros = [0] * load.asked.numel()
        assert counts == ((zeros, zeros, zeros) if out is None else (out.asked, out.served, out.first_counts))
    assert_close(
        gradients(y, routing.balance_loss, [x, *block.parameters()]),
        gradients(want.y, want.balance_loss, [x64, *other.parameters()]),
    )


@pytest.mark.parametrize(
    ("top_k", "capacity_factor", "padding"),
    [(1, 0.0, "some"), (1, 0.6, "none"), (2, 0.0, "none"), (2, 0.6, "some")],
)
def test_plain_layer_equals_the_reference(top_k: int, capacity_factor: float, padding: str) -> None:
    torch.manual_seed(top_k)
    block: Any = decided(MoE(DIM, FFN, 5, top_k=top_k, capacity_factor=capacity_factor, backend="triton"))
    check_plain(block, *tokens(3, 9, padding))


@pytest.mark.parametrize(("dim", "ffn", "experts"), [(8, 8, 2), (136, 264, 3), (40, 72, 70)])
def test_sizes_that_fill_no_tile(dim: int, ffn: int, experts: int) -> None:
    torch.manual_seed(dim)
    block: Any = decided(MoE(dim, ffn, experts, backend="triton"))
    check_plain(block, *tokens(2, 10, "some", dim))


@pytest.mark.parametrize(
    ("strata", "top_k", "capacity_factor"), [((3,), 2, 0.6), ((2, 3), 1, 0.6), ((2, 3), 2, 0.0), ((1, 2, 2), 2, 0.6)]
)
def test_strata_equal_the_reference(strata: tuple[int, ...], top_k: int, capacity_factor: float) -> None:
    torch.manual_seed(len(strata))
    block: Any = decided(
        StratifiedMoE(DIM, FFN, strata, top_k=top_k, capacity_factor=capacity_factor, backend="triton")
    )
    check_strata(block, *tokens(3, 9, "some"))


def test_norms_of_wide_rows() -> None:
    """Rows that a program of the backward pass does not hold whole."""
    torch.manual_seed(3)
    block: Any = decided(StratifiedMoE(2056, 8, (2,), backend="triton"))
    check_strata(block, *tokens(1, 7, "some", 2056))


def test_experts_and_gates_that_nobody_asks() -> None:
    torch.manual_seed(0)
    block: Any = StratifiedMoE(DIM, FFN, (2, 3, 2), backend="triton")
    x, mask = tokens(2, 8, "none")
    with torch.no_grad():  # expert 6 of the last stratum is everybody's first choice
        block._gate(0).weight.zero_()
        block._gate(0).weight[6] = 5 * block.norms[0](x).mean(dim=(0, 1))
        block.norms[0].bias.fill_(1.0)
        block._gate(0).weight[6] = 1.0
    check_strata(block, x, mask)


@pytest.mark.parametrize("kind", ["plain", "strata"])
def test_padding_alone(kind: str) -> None:
    torch.manual_seed(0)
    x, mask = tokens(2, 4, "all")
    block: Any = (
        MoE(DIM, FFN, 3, backend="triton") if kind == "plain" else StratifiedMoE(DIM, FFN, (1, 2), backend="triton")
    )
    y, routing = block(x.requires_grad_(), mask)
    assert torch.equal(y, torch.zeros_like(x) if kind == "plain" else x) and routing.visits.sum() == 0
    (y.sum() + routing.balance_loss).backward()
    assert all(not parameter.grad.any() for parameter in block.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("padding", ["none", "some"])
def test_evaluation_equals_the_reference(padding: str) -> None:
    torch.manual_seed(0)
    block: Any = decided(StratifiedMoE(DIM, FFN, (2, 3), capacity_factor=0.2, backend="triton")).eval()
    x, mask = tokens(3, 9, padding)
    with torch.inference_mode():
        y, routing = block(x, mask)
    other = in_float64(block)
    want = reference_stratified(x.double(), mask, (2, 3), other.gates, other.norms, other.experts, 2, 0.2, False)
    assert_close([y], [want.y.detach()])
    assert torch.equal(routing.visits, want.visits)


SAME: dict[str, dict[str, Any]] = {
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu", "capacity_factor": 0.6},
    "release": {"variant": "release", "capacity_factor": 0.6},
    "gate bias": {"gate_bias": True},
    "z-loss": {"losses": ("z",)},
    "z-loss of a biased gate, release": {"losses": ("z",), "gate_bias": True, "variant": "release"},
    "load bias": {"load_bias": LoadBias(0.1, "stratum"), "capacity_factor": 0.6},
    "raw weights": {"weighting": Weighting.RAW, "capacity_factor": 0.6},
    "one choice, load bias": {"top_k": 1, "load_bias": LoadBias(0.1)},
}


def test_norms_with_a_kernel_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for many tokens."""
    monkeypatch.setattr("smoe_mt.moe.kernels.triton_block.tiles.norm_goes_along", lambda *_: False)
    torch.manual_seed(4)
    check_strata(decided(StratifiedMoE(DIM, FFN, (2, 3), backend="triton")), *tokens(3, 9, "some"))
    compare_with_loop({"variant": "release"}, "strata")


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
@pytest.mark.parametrize("kind", ["plain", "strata"])
def test_equals_loop(options: dict[str, Any], kind: str) -> None:
    """What the reference lacks."""
    compare_with_loop(options, kind)


def compare_with_loop(options: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    options = dict(options)
    losses = options.pop("losses", ())
    blocks: list[nn.Module] = [
        MoE(DIM, FFN, 4, backend=backend, **options) if kind == "plain" else
        StratifiedMoE(DIM, FFN, (2, 3), backend=backend, **options) for backend in ("triton", "loop")
    ]  # fmt: skip
    for router in routers_of(decided(blocks[0])):
        if router.selection_bias is not None:
            router.selection_bias.copy_(torch.linspace(1, -1, router.num_experts))
    blocks[1].load_state_dict(blocks[0].state_dict())
    x, mask = tokens(3, 9, "some")
    results = []
    for block in blocks:
        for router in routers_of(block):
            router.request_losses(losses)
        x = x.detach().requires_grad_()
        y, routing = block(x, mask)
        loss = sum(routing.losses.values(), torch.zeros(()))
        told = [count for load in routing.load for count in (load.asked, load.served, load.tokens)]
        counted = [statistic for router in routers_of(block) for statistic in router.statistics()]
        grads = gradients(y, loss, [x, *block.parameters()])
        results.append([y, *routing.losses.values(), *routing.entropy, *told, *counted, *grads])
    assert set(routing.losses) == {"balance", *losses}
    assert_close(*results)
    assert routing.units.shape == mask.shape


@pytest.mark.parametrize("dtype", [torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    """bfloat16 is tested on a GPU: the interpreter's numpy has none."""
    torch.manual_seed(0)
    block: Any = decided(StratifiedMoE(DIM, FFN, (2, 3), backend="triton"))
    x, mask = tokens(3, 9, "some")
    x = x.to(dtype).float()
    block = block.to(dtype).float()
    y, _ = copy.deepcopy(block).to(dtype)(x.to(dtype), mask)
    want, _ = block(x, mask)
    assert y.dtype is dtype
    assert (y.float() - want).norm() <= 5e-3 * want.norm()


def test_dropout_is_the_same_backward_as_forward() -> None:
    """With a bias alone, an expert's output is that bias: its gradient is what dropout let through."""
    torch.manual_seed(0)
    block: Any = StratifiedMoE(DIM, FFN, (2, 3), dropout=0.5, backend="triton")
    with torch.no_grad():
        block.experts.w_out.zero_()
        block.experts.b_out.fill_(1.0)
    x, mask = tokens(2, 9, "none")
    y, _ = block(x, mask)
    y.sum().backward()
    assert block.experts.b_out.grad.sum() == pytest.approx((y - x).sum().item(), rel=1e-4)
    assert 0 < (y - x == 0).float().mean() < 1


def test_masked_slots_carry_no_gradient() -> None:
    torch.manual_seed(0)
    block: Any = MoE(DIM, FFN, 3, top_k=1, eom_p=0.5, capacity_factor=0.0, backend="triton")
    x, mask = tokens(2, 20, "none")
    y, _ = block(x.requires_grad_(), mask)
    y.sum().backward()
    masked = (y == 0).all(dim=-1)
    assert 0.2 < masked.float().mean() < 0.8
    grad = x.grad
    assert grad is not None and not grad[masked].any() and grad[~masked].any()


def test_what_a_pass_keeps_is_the_tokens_and_one_hidden_activation() -> None:
    """No gathered rows and no experts' outputs: of what autograd saves, one tensor alone is as large as a row for every slot."""
    block: Any = MoE(DIM, FFN, 3, capacity_factor=0, backend="triton")
    shapes = saved_shapes(lambda: block(torch.randn(70, DIM, requires_grad=True)))
    assert [shape[1] for shape in shapes if shape.numel() >= 140 * DIM] == [FFN]
    assert [70, DIM] in map(list, shapes)


def test_the_host_never_waits() -> None:
    block: Any = StratifiedMoE(DIM, FFN, (1, 2), gate_bias=True, load_bias=LoadBias(0.1), dropout=0.1, backend="triton")
    x, mask = tokens(1, 7, "some")
    with NoReadingBack():
        y, routing = block(x.requires_grad_(), mask)
        (y.sum() + routing.balance_loss).backward()


def test_backward_twice_gives_the_same() -> None:
    torch.manual_seed(0)
    block: Any = StratifiedMoE(DIM, FFN, (2, 3), backend="triton")
    x, mask = tokens(2, 9, "some")
    y, routing = block(x, mask)
    loss = y.square().sum() + routing.balance_loss
    weights = list(block.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, weights)))
