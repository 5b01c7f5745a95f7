"""What a stratum costs in the Triton kernels, interpreted: its tokens are packed, and its hidden layer may hold a part of its rows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.kernels.triton_block.records import Operands
from smoe_mt.moe.kernels.triton_block.settings import Settings
from tests.moe.kernels.allocations import Allocations
from tests.moe.kernels.test_triton_equality import (
    DIM,
    FFN,
    check_plain,
    check_strata,
    compare_with_loop,
    decided,
    tokens,
)
from tests.moe.settings import saved_shapes

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not interpreted(), reason="kernels run on the GPU here: see the tests marked gpu")

HIDDEN_TURNS = "smoe_mt.moe.kernels.triton_block.tiles.hidden_turns"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Of each launch at a site, one after the other, how many tiles (loads in two dimensions) its programs read."""
    from triton.runtime.interpreter import InterpreterBuilder

    from smoe_mt.moe.kernels.triton_block.launching import Launcher

    loads: dict[str, list[int]] = defaultdict(list)
    at: list[str] = []
    launch, load = Launcher.__call__, InterpreterBuilder.create_masked_load

    def launch_counted(self: Launcher, site: str, *args: Any, **constants: Any) -> None:
        loads[site].append(0)
        at[:] = [site]
        launch(self, site, *args, **constants)

    def load_counted(self: Any, ptrs: Any, *rest: Any) -> Any:
        loads[at[0]][-1] += ptrs.data.ndim == 2
        return load(self, ptrs, *rest)

    monkeypatch.setattr(Launcher, "__call__", launch_counted)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", load_counted)
    return loads


def listed(where: Tensor, gate: int) -> tuple[list[int], int]:
    """The list of tokens at a gate by ``pack_kernel``, in small pieces."""
    from smoe_mt.moe.kernels.triton_block.programs.packing import pack_kernel

    found = torch.full((where.numel(),), -7, dtype=torch.int32)
    count = torch.empty(1, dtype=torch.int32)
    pack_kernel[(-(-where.numel() // 16),)](where, found, count, gate, where.numel(), BT=16, BS=64)
    return found.tolist(), int(count)


@pytest.mark.parametrize("count", [1, 16, 17, 150])
def test_tokens_at_a_gate_are_listed_in_order_before_the_others(count: int) -> None:
    torch.manual_seed(count)
    at, padding = torch.randint(3, (count,), dtype=torch.int32), torch.rand(count) < 0.5
    for where, gate in ((at, 2), (padding, 0), (torch.zeros_like(at), 2), (torch.full_like(at, 2), 2)):
        here = where.int() == gate
        assert listed(where, gate) == (
            [*here.nonzero()[:, 0].tolist(), *(~here).nonzero()[:, 0].tolist()],
            int(here.sum()),
        )


def a_quarter_goes_on() -> tuple[Any, Tensor]:
    """A block, and 128 tokens of which every fourth meets its second gate."""
    torch.manual_seed(0)
    block: Any = StratifiedMoE(8, 8, (1, 2), backend="triton")
    direction = torch.tensor([1.0, -1.0] * 4)
    with torch.no_grad():
        block._gate(0).weight.copy_(torch.stack([3 * direction, -direction, -2 * direction]))
    signs = torch.where(torch.arange(128) % 4 == 0, 1.0, -1.0)
    return block, signs[:, None] * direction + 0.01 * torch.randn(128, 8)


def test_a_gate_works_on_its_tokens_alone(launched: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoe_mt.moe.kernels.triton_block.tiles.norm_goes_along", lambda *_: False)
    block, x = a_quarter_goes_on()
    y, routing = block(x.requires_grad_())
    y.sum().backward()
    assert routing.visits.sum() == 128 + 32
    first, second = {}, {}
    for site in ("route", "place", "up", "down", "combine"):
        first[site], second[site] = launched[site]
    for site in ("token_gradient", "gate_gradient"):
        second[site], first[site] = launched[site]
    for site in ("route", "place", "combine", "token_gradient", "gate_gradient"):
        assert 3 * second[site] <= first[site], site
    for site in ("up", "down"):  # each expert's rows are padded
        assert 1.8 * second[site] <= first[site], site


def test_padding_costs_nothing(launched: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    block: Any = MoE(8, 8, 2, backend="triton")
    x = torch.randn(128, 8, requires_grad=True)
    for mask in (None, torch.arange(128) % 2 == 1):
        y, _ = block(x, mask)
        y.sum().backward()
    for site in ("route", "place", "token_gradient", "gate_gradient"):
        whole, half = launched[site]
        assert 1.6 * half <= whole, site


@pytest.fixture
def in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden layers with room for half of the rows at most."""
    monkeypatch.setattr(HIDDEN_TURNS, lambda *_: 2)


@pytest.mark.parametrize(("turns", "padding"), [(2, "none"), (3, "none"), (2, "all")])
def test_turns_equal_the_reference(turns: int, padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HIDDEN_TURNS, lambda *_: turns)
    torch.manual_seed(0)
    block: Any = decided(StratifiedMoE(DIM, FFN, (2, 1, 2), capacity_factor=0.7, backend="triton"))
    check_strata(block, *tokens(3, 9, padding))


@pytest.mark.usefixtures("in_turns")
@pytest.mark.parametrize("go_on", [True, False])
def test_all_tokens_or_none_at_a_late_gate(go_on: bool) -> None:
    """The first expert is the first stratum: whom it leads meets the second gate."""
    torch.manual_seed(1)
    block: Any = StratifiedMoE(DIM, FFN, (1, 3), backend="triton")
    with torch.no_grad():
        block.norms[0].bias.fill_(2.0)
        block._gate(0).weight[0] = 0.2 if go_on else -0.2
    check_strata(block, *tokens(2, 20, "none"))
    assert (block(torch.randn(40, DIM))[1].visits == 1 + go_on).all()


@pytest.mark.usefixtures("in_turns")
def test_turns_of_a_plain_layer_equal_the_reference() -> None:
    torch.manual_seed(0)
    check_plain(decided(MoE(DIM, FFN, 5, top_k=1, backend="triton")), *tokens(3, 9, "some"))


@pytest.mark.usefixtures("in_turns")
def test_turns_that_keep_what_comes_before_the_activation() -> None:
    compare_with_loop({"activation": "gelu"}, "strata")


@pytest.mark.usefixtures("in_turns")
def test_backward_twice_in_turns_gives_the_same() -> None:
    torch.manual_seed(0)
    block: Any = decided(StratifiedMoE(DIM, FFN, (2, 3), backend="triton"))
    y, routing = block(torch.randn(27, DIM))
    loss, weights = y.square().sum() + routing.balance_loss, list(block.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, weights)))


@pytest.mark.usefixtures("in_turns")
def test_a_turn_is_computed_again_only_after_another(launched: dict[str, list[int]]) -> None:
    """With all tokens at two of five experts the rows fit in the first turn, with all experts asked they do not."""
    for scale, again in ((0.0, 0), (1.0, 1)):
        torch.manual_seed(0)
        block: Any = MoE(8, 8, 5, backend="triton")
        with torch.no_grad():
            block.gate.weight.mul_(scale)  # the first two of equals are chosen
        launched.clear()
        y, _ = block(torch.randn(20, 8, requires_grad=True))
        y.sum().backward()
        assert (launched["up_again"][0] > 0) == (again > 0)
        assert len(launched["up"]) == 2 and (launched["up"][1] > 0) == (again > 0)


def without_memory(strata: tuple[int, ...]) -> tuple[Operands, Settings]:
    """A block of 16,384 tokens, embed_dim 1,024, 16 experts, bf16: sizes alone."""

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True)

    nested, firsts = len(strata) > 1, tuple(sum(strata[:i]) for i in range(len(strata)))
    bank = [new(16, 4096, 1024), new(16, 4096), new(16, 1024, 4096), new(16, 1024)]
    gates, norms = [new(16 - first, 1024) for first in firsts], [new(1024) for _ in range(2 * len(strata) * nested)]
    next_gate = torch.empty(16, dtype=torch.int64, device="meta")
    given = Operands(new(16384, 1024), None, next_gate, None, [], gates, [], norms, bank)
    return given, Settings(firsts, 2, nested, 2.0, False, "relu")


@pytest.mark.parametrize(("strata", "share"), [((4, 12), 0.5), ((16,), 1.0)])
def test_a_late_gate_of_many_tokens_keeps_room_for_half_of_them(strata: tuple[int, ...], share: float) -> None:
    from smoe_mt.moe.kernels.triton_block.gate import Gate

    given, settings = without_memory(strata)
    gate = Gate(len(strata) - 1, given, settings)
    kept = gate.empty(given.x, True, True).kept
    assert kept.size(0) <= share * gate.rows_bound() + gate.tiles.pad
    assert gate.turns * kept.size(0) >= gate.rows_bound()


@pytest.mark.parametrize(("strata", "most"), [((16,), 420), ((4, 12), 650)])
def test_memory_of_a_step(strata: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiB at the peak of forward and backward, beside the output, the weights and their gradients. One H100 measured 418 for a
    plain layer, as this counts."""
    from smoe_mt.moe.kernels.triton_block.block import BlockFunction

    monkeypatch.setattr("smoe_mt.moe.kernels.triton_block.launching.Launcher.__call__", lambda *_, **__: None)
    given, settings = without_memory(strata)
    inputs = given.with_gradients()
    with Allocations([*inputs, given.next_gate]) as counted:
        y, losses, *_ = BlockFunction.apply(given, settings.text(), *inputs)
        grads = torch.empty_like(y), torch.empty_like(losses)
        torch.autograd.grad((y, losses), inputs, grads)
    beside = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs[1:], y))
    assert (counted.peak - beside) / 2**20 <= most


def test_all_gates_keep_what_the_norms_gave_in_one_place() -> None:
    def rows(strata: tuple[int, ...]) -> int:
        block: Any = StratifiedMoE(DIM, FFN, strata, backend="triton")
        saved = saved_shapes(lambda: block(torch.randn(70, DIM, requires_grad=True)))
        return sum(shape.numel() for shape in saved if shape[-2:] == (70, DIM)) // (70 * DIM)

    assert [rows(strata) for strata in ((3,), (1, 2), (1, 1, 2))] == [2, 3, 4]  # an input for each gate, and one normed
