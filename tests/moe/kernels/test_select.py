"""``grouped`` against ``loop``, both against plain autograd, and what a backend promises besides results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from smoe_mt.errors import UserError
from smoe_mt.moe import ConditionalMoE, ExpertBank, MoE, Stacking, StratifiedMoE
from smoe_mt.moe.dispatch import plan_dispatch
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.kernels.select import bind_experts, choose_backend
from tests.moe.settings import saved_shapes

DIM, FFN = 16, 24
BLOCKS: dict[str, Callable[..., Any]] = {
    "vanilla": lambda **o: MoE(DIM, FFN, 5, **o),
    "switch": lambda **o: MoE(DIM, FFN, 5, top_k=1, **o),
    "cmr": lambda **o: ConditionalMoE(DIM, FFN, 5, gate_dropout=0.0, **o),
    "stacking": lambda **o: Stacking(DIM, FFN, (2, 3), **o),
    "stratified": lambda **o: StratifiedMoE(DIM, FFN, (2, 3, 2), **o),
    "release": lambda **o: StratifiedMoE(DIM, FFN, (2, 3, 2), variant="release", **o),
}


def pair(name: str, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """The block with either backend, same weights, decided gates."""
    torch.manual_seed(0)
    loop, grouped = (BLOCKS[name](backend=backend, **options) for backend in ("loop", "grouped"))
    for parameter_name, parameter in loop.named_parameters():
        if "gate" in parameter_name:
            nn.init.normal_(parameter)
    grouped.load_state_dict(loop.state_dict())
    return loop.to(dtype), grouped.to(dtype)


def run(block: Any, x: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Output, losses, counts and all gradients of a pass."""
    x = x.detach().clone().requires_grad_()
    y, routing = block(x, mask)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    extra = routing.balance_loss + sum(routing.sums.values())
    ((y * weight).float().sum() + extra).backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in block.parameters()]
    loads = [count for load in routing.load for count in (load.asked, load.served, load.tokens)]
    return [y, x.grad, *grads, routing.balance_loss, routing.visits, *routing.entropy, *loads]


def both(name: str, dtype: torch.dtype, training: bool, padded: bool, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """What loop and grouped give, side by side."""
    loop, grouped = pair(name, dtype, **options)
    x = torch.randn(3, 11, DIM, dtype=dtype)
    mask = (torch.rand(3, 11) < 0.3) if padded else None
    return list(zip(run(loop.train(training), x, mask), run(grouped.train(training), x, mask), strict=True))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("capacity_factor", [0.0, 0.7])
def test_grouped_equals_loop(name: str, training: bool, padded: bool, capacity_factor: float) -> None:
    for want, got in both(name, torch.float32, training, padded, capacity_factor=capacity_factor):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_grouped_equals_loop_in_half_precision(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """By the norm of everything together: single gradients that almost cancel have no digits in half precision."""
    results = both(name, dtype, training=True, padded=True, capacity_factor=1.0)
    assert all(got.dtype is want.dtype for want, got in results)
    wants, gots = (torch.cat([value.double().flatten() for value in side]) for side in zip(*results))
    assert (gots - wants).norm() <= tolerance * wants.norm()


@pytest.mark.parametrize("backend", ["loop", "grouped"])
@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("name", BLOCKS)
def test_one_token_and_none(backend: str, tokens: int, name: str) -> None:
    block = BLOCKS[name](backend=backend)
    x = torch.randn(tokens, DIM, requires_grad=True)
    y, routing = block(x)
    assert y.shape == x.shape and routing.visits.shape == (tokens,)
    (y.sum() + routing.balance_loss).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("name", BLOCKS)
def test_garbage_at_padding_harms_nothing(name: str) -> None:
    for block in pair(name, torch.float32):
        x = torch.randn(2, 6, DIM)
        mask = torch.zeros(2, 6, dtype=torch.bool)
        mask[:, 4:] = True
        clean = run(block, x, mask)
        block.zero_grad()
        wild = run(block, x.masked_fill(mask[..., None], 1e20), mask)
        torch.testing.assert_close(wild[0][:, :4], clean[0][:, :4])
        for got, want in zip(wild[2:], clean[2:]):
            torch.testing.assert_close(got, want)


class NoReadingBack(TorchDispatchMode):
    """Fails on operations that make the host wait for the device, or whose result has a size that depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "bincount", "unique", "equal", "item")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        # Within the product itself: on a CPU it is a loop over groups, on a GPU one kernel.
        assert name not in self.FORBIDDEN and not name.startswith("_unique"), name
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype is not torch.bool for i in args[1]), "indexing with a mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_grouped_never_makes_the_host_wait(name: str, training: bool) -> None:
    block = BLOCKS[name](backend="grouped", capacity_factor=1.0, dropout=0.1, eom_p=0.1).train(training)
    x = torch.randn(3, 8, DIM, requires_grad=True)
    mask = torch.rand(3, 8) < 0.3
    with NoReadingBack():
        y, routing = block(x, mask)
        (y.sum() + routing.balance_loss).backward()


def test_that_test_would_notice() -> None:
    block = BLOCKS["stratified"](backend="loop")
    with pytest.raises(AssertionError), NoReadingBack():
        block(torch.randn(3, 8, DIM), torch.rand(3, 8) < 0.5)


def naive(experts: Any, x: Tensor, choices: Tensor, weights: Tensor) -> Tensor:
    """Every token through its experts, one by one, by autograd."""
    act: Any = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}[experts.activation]
    rows = []
    for t in range(x.size(0)):
        parts = [
            w * F.linear(act(F.linear(x[t], experts.w_in[e], experts.b_in[e])), experts.w_out[e], experts.b_out[e])
            for w, e in zip(weights[t], choices[t])
        ]
        rows.append(torch.stack(parts).sum(dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_gradients_are_autograds(activation: str, backend: str) -> None:
    torch.manual_seed(0)
    dtype = torch.double if backend == "loop" else torch.float
    experts: Any = Experts(4, DIM, FFN, activation).to(dtype)
    x = torch.randn(9, DIM, dtype=dtype, requires_grad=True)
    weights = torch.rand(9, 2, dtype=dtype, requires_grad=True)
    choices = torch.rand(9, 4).argsort(dim=1)[:, :2]
    here = None if backend == "loop" else torch.ones(9, dtype=torch.bool)
    y = bind_experts(experts, x, backend)(x, weights, plan_dispatch(choices, 4, None, here), 0)
    want = naive(experts, x, choices, weights)
    torch.testing.assert_close(y, want)
    inputs = [x, weights, *experts.parameters()]
    for g, w in zip(*(torch.autograd.grad(v.sin().sum(), inputs) for v in (y, want))):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_dropout_on_the_experts_outputs(backend: str) -> None:
    """Half of each slot's output is zero, the rest doubled, and the gradient goes the same way."""
    torch.manual_seed(0)
    experts: Any = Experts(2, DIM, FFN)
    nn.init.zeros_(experts.w_out)
    nn.init.ones_(experts.b_out)
    x = torch.randn(200, DIM)
    weights = torch.ones(200, 1, requires_grad=True)
    here = None if backend == "loop" else torch.ones(200, dtype=torch.bool)
    plan = plan_dispatch(torch.arange(200).unsqueeze(1) % 2, 2, None, here)
    y = bind_experts(experts, x, backend, dropout=0.5)(x, weights, plan, 0)
    assert set(y.unique().tolist()) == {0.0, 2.0} and 0.9 < y.mean().item() < 1.1
    y.sum().backward()
    torch.testing.assert_close(weights.grad, y.sum(dim=1, keepdim=True).detach())
    assert experts.b_out.grad is not None
    torch.testing.assert_close(experts.b_out.grad.sum(), y.sum().detach())


def test_gradients_do_not_depend_on_how_often_and_for_what_they_are_asked() -> None:
    """The strata share one buffer for the gradients of the experts; a pass that left it open must not spoil the next."""
    block, _ = pair("stratified", torch.float32, capacity_factor=0)
    x = torch.randn(20, DIM, requires_grad=True)
    y, _ = block(x)
    parameters = list(block.experts.parameters())
    (alone,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    first = torch.autograd.grad(y.square().sum(), [x, *parameters], retain_graph=True)
    again = torch.autograd.grad(y.square().sum(), [x, *parameters])
    assert alone.equal(first[0])
    for a, b in zip(first, again):
        assert a.equal(b)


def test_gradients_of_the_experts_are_kept_without_a_copy() -> None:
    block, _ = pair("stratified", torch.float32)
    seen: list[int] = []
    block.experts.w_in.register_hook(lambda grad: seen.append(grad.data_ptr()))
    y, _ = block(torch.randn(20, DIM))
    y.sum().backward()
    assert block.experts.w_in.grad is not None
    assert seen == [block.experts.w_in.grad.data_ptr()]


@pytest.mark.parametrize("index", [0, 1])
def test_frozen_experts_let_gradients_through(index: int) -> None:
    block = pair("stratified", torch.float32)[index]
    x = torch.randn(20, DIM)
    want = run(block, x, None)[1]
    block.experts.requires_grad_(False)
    got = run(block, x, None)[1]
    torch.testing.assert_close(got, want)
    assert all(p.grad is None or not p.requires_grad for p in block.experts.parameters())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("index", [0, 1])
def test_deterministic(name: str, index: int) -> None:
    block = pair(name, torch.float32)[index]
    x = torch.randn(3, 11, DIM)
    mask = torch.rand(3, 11) < 0.3
    torch.use_deterministic_algorithms(True)
    try:
        first = [value.clone() for value in run(block, x, mask)]
        block.zero_grad()
        second = run(block, x, mask)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(a.equal(b) for a, b in zip(first, second))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("index", [0, 1])
def test_activation_checkpointing_gives_the_same(name: str, index: int) -> None:
    block = pair(name, torch.float32, dropout=0.2)[index]
    x = torch.randn(3, 11, DIM, requires_grad=True)
    mask = torch.rand(3, 11) < 0.3
    results = []
    for recompute in (False, True):
        torch.manual_seed(1)
        y, routing = checkpoint(block, x, mask, use_reentrant=False) if recompute else block(x, mask)
        results.append(torch.autograd.grad(y.square().sum() + routing.balance_loss, [x, *block.parameters()]))
    for want, got in zip(*results):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("index", [0, 1])
def test_autocast_computes_in_half_precision_and_keeps_float32_weights(name: str, index: int) -> None:
    block = pair(name, torch.float32)[index]
    x = torch.randn(3, 11, DIM)
    want = run(block, x, None)
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(block, x, None)
    for g, w in zip(got[1:], want[1:]):
        assert g.dtype is w.dtype
    torch.testing.assert_close(got[0].float(), want[0], rtol=0.1, atol=0.1)


def test_what_a_pass_keeps_is_one_hidden_activation() -> None:
    """No gathered rows and no experts' outputs: of what autograd saves, one tensor alone is as large as a row for every slot."""
    block: Any = MoE(DIM, FFN, 4, capacity_factor=0, backend="loop")
    sizes = saved_shapes(lambda: block(torch.randn(50, DIM, requires_grad=True)))
    assert [shape.numel() for shape in sizes if shape.numel() >= 100 * DIM] == [100 * FFN]


@pytest.mark.parametrize(("backend", "want"), [("auto", "loop"), ("loop", "loop"), ("grouped", "grouped")])
def test_choice_of_backend(backend: str, want: str) -> None:
    assert choose_backend(backend, torch.bfloat16, 512, 2048) == want


@pytest.mark.parametrize(
    ("dtype", "dim", "words"), [(torch.double, 16, "float64"), (torch.float32, 6, "multiples of 4")]
)
def test_grouped_says_where_it_cannot_compute(dtype: torch.dtype, dim: int, words: str) -> None:
    block: Any = MoE(dim, FFN, 4, backend="grouped").to(dtype)
    with pytest.raises(UserError, match=words):
        block(torch.randn(3, dim, dtype=dtype))


class Scaled(ExpertBank):
    """x times a number of the expert's own: no FFN."""

    def __init__(self) -> None:
        super().__init__(3, DIM)
        self.scale = nn.Parameter(torch.ones(3))

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return (1, 1, 1)

    def expert_output(self, e: int, rows_SD: Tensor) -> Tensor:
        return rows_SD * self.scale[e]


def test_grouped_refuses_a_bank_of_no_ffns_in_one_line() -> None:
    block = MoE(DIM, FFN, 3, backend="grouped", experts=Scaled())
    with pytest.raises(UserError, match="computes FFNs of one size, and Scaled has others; choose auto"):
        block(torch.randn(4, DIM))
