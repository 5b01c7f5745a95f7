"""FFNs of different sizes: as padded ones, without the padding; their storage; how sizes are rounded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.errors import UserError
from smoe_mt.moe import MoE
from smoe_mt.moe.experts import Experts, RaggedExperts
from smoe_mt.moe.experts.ragged import STACKS, sizes_of
from smoe_mt.moe.kernels.select import bind_experts

D = 6
SIZES = (4, 9, 4, 1, 9)


def own(bank: RaggedExperts, e: int) -> dict[str, Tensor]:
    """w_in, b_in, w_out, b_out of an expert."""
    return {name.partition(".")[0]: weight for name, weight in bank.slices(e).items()}


def padded(bank: RaggedExperts) -> Experts:
    """The same experts, each with zero rows up to the largest size."""
    most = max(bank.sizes)
    wide = Experts(bank.num_experts, bank.embed_dim, most, bank.activation).to(bank.w_in[str(most)].dtype)
    with torch.no_grad():
        for e, size in enumerate(bank.sizes):
            for name, weight in own(bank, e).items():
                more = {"w_in": (0, 0, 0, most - size), "b_out": (0, 0)}.get(name, (0, most - size))
                getattr(wide, name)[e] = functional.pad(weight, more)
    return wide


def pair(activation: str = "relu", dtype: torch.dtype = torch.double, **options: Any) -> tuple[MoE, MoE]:
    """A layer of ragged experts and one of the same, padded."""
    torch.manual_seed(0)
    bank = RaggedExperts(D, SIZES, activation)
    layers = tuple(MoE(D, 1, len(SIZES), experts=each, **options).to(dtype) for each in (bank, padded(bank)))
    torch.nn.init.normal_(layers[0].gate.weight)  # type: ignore[arg-type]
    layers[1].gate.load_state_dict(layers[0].gate.state_dict())
    return layers[0], layers[1]


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("capacity_factor", [0.0, 0.8])
def test_equals_experts_that_are_padded_to_the_largest(activation: str, capacity_factor: float) -> None:
    ragged, wide = pair(activation, capacity_factor=capacity_factor)
    x = torch.randn(30, D, dtype=torch.double)
    outputs = [layer(x)[0] for layer in (ragged, wide)]
    torch.testing.assert_close(*outputs)
    for y in outputs:
        y.sin().sum().backward()
    for e, size in enumerate(SIZES):
        place = [other for other, each in enumerate(SIZES) if each == size].index(e)
        for name in STACKS:
            got = ragged.experts.stacks()[f"{name}.{size}"].grad
            want = getattr(wide.experts, name).grad[e]
            assert got is not None
            inside = tuple(slice(length) for length in got[place].shape)
            torch.testing.assert_close(got[place], want[inside])
            want[inside] = 0
            assert not want.any()  # nothing flows into the padding


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_the_zeros_of_padded_experts_stay_zero_under_adam_with_decay(activation: str) -> None:
    """So that padded experts are a fair thing to compare with: training never fills the rows."""
    _, wide = pair(activation)
    bank: Any = wide.experts
    zeros = {name: getattr(bank, name).detach() == 0 for name in ("w_in", "b_in", "w_out")}
    optimizer = torch.optim.AdamW(wide.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        wide(torch.randn(30, D, dtype=torch.double))[0].sin().sum().backward()
        optimizer.step()
    for name, places in zeros.items():
        assert places.any() and not getattr(bank, name)[places].any()


def test_parameters_are_those_of_the_sizes_and_nothing_is_padded() -> None:
    bank = RaggedExperts(D, SIZES)
    assert sum(p.numel() for p in bank.parameters()) == sum(h * (2 * D + 1) for h in SIZES) + len(SIZES) * D
    assert bank.parameters_of_experts() == tuple(h * (2 * D + 1) + D for h in SIZES)
    layer = (
        MoE(D, 1, len(SIZES), capacity_factor=0.0, experts=bank).double().eval()
    )  # float32 is packed, and not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, routing = layer(torch.randn(50, D, dtype=torch.double))
    assert counter.get_total_flops() == routing.units.sum() * 4 * D + 50 * 2 * D * len(SIZES)


def test_experts_start_as_linear_layers_do() -> None:
    torch.manual_seed(0)
    bank = RaggedExperts(400, (16, 64))
    for e, size in enumerate((16, 64)):
        w_in, b_in, w_out, _ = own(bank, e).values()
        for weight, fan_in in ((w_in, 400), (b_in, 400), (w_out, size)):
            assert 0.85 / math.sqrt(fan_in) < weight.abs().max() <= 1 / math.sqrt(fan_in)


def test_an_expert_alone_is_what_the_kernel_computes() -> None:
    bank = RaggedExperts(D, SIZES).double()
    x = torch.randn(7, D, dtype=torch.double)
    for e in range(len(SIZES)):
        w_in, b_in, w_out, b_out = own(bank, e).values()
        torch.testing.assert_close(bank.expert_output(e, x), torch.relu(x @ w_in.t() + b_in) @ w_out.t() + b_out)


def test_decoding_with_packed_weights_sees_new_weights() -> None:
    ragged, wide = (layer.eval() for layer in pair(dtype=torch.float, capacity_factor=0.0))
    x = torch.randn(3, D)
    with torch.no_grad():
        torch.testing.assert_close(ragged(x)[0], wide(x)[0])
        for layer in (ragged, wide):
            for weight in layer.experts.parameters():
                weight.mul_(2)
        torch.testing.assert_close(ragged(x)[0], wide(x)[0])


def test_a_rank_keeps_its_experts_of_every_size() -> None:
    """Also none of one: its stacks are empty then, so that parameters have the same numbers on all ranks."""
    whole, part = RaggedExperts(D, SIZES), RaggedExperts(D, SIZES)
    part.keep((1, 3), remote=None)  # type: ignore[arg-type]
    assert [tuple(p.shape[:1]) for p in part.w_in.values()] == [(1,), (0,), (1,)]
    part.load_state_dict(whole.state_dict())
    for place, e in enumerate((1, 3)):
        assert all(weight.equal(own(whole, e)[name]) for name, weight in own(part, place).items())
        x = torch.randn(3, D)
        assert part.expert_output(place, x).equal(whole.expert_output(e, x))
    assert part.parameters_of_experts() == whole.parameters_of_experts()
    part.load_state_dict(part.state_dict())


def test_grouped_products_are_refused() -> None:
    bank, x = RaggedExperts(D, SIZES), torch.randn(2, D)
    assert bind_experts(bank, x, "auto").kernel == bind_experts(bank, x, "triton").kernel == "loop"
    with pytest.raises(UserError, match="backend grouped computes FFNs of one size"):
        bind_experts(bank, x, "grouped")


def test_a_dense_ffn_fits_experts_of_its_size_alone() -> None:
    ffn = (torch.randn(8, D), torch.randn(8), torch.randn(D, 8), torch.randn(D))
    bank = RaggedExperts(D, (8, 8))
    bank.load_state_dict(dict(bank.from_dense(*ffn)))
    assert all(weight.equal(given) for e in (0, 1) for weight, given in zip(own(bank, e).values(), ffn))
    with pytest.raises(ValueError, match="8 hidden units, but these experts have 4 to 12"):
        RaggedExperts(D, (4, 12)).from_dense(*ffn)


@given(shares=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), ffn_dim=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_sizes_keep_the_total_and_are_multiples_of_8_where_that_is_possible(shares: list[float], ffn_dim: int) -> None:
    total = len(shares) * ffn_dim
    found = sizes_of(shares, total)
    assert sum(found) == total and min(found) >= 1
    exact = [total * share / sum(shares) for share in shares]
    step = 8 if total % 8 == 0 and min(exact) > 8 - 1e-6 else 1
    assert all(size % step == 0 for size in found)
    if min(exact) >= 1:
        assert all(abs(size - each) < step + 1e-5 for size, each in zip(found, exact))


@pytest.mark.parametrize(
    ("shares", "total", "words"),
    [([], 8, "positive"), ([1.0, 0.0], 8, "positive"), ([1.0, math.nan], 8, "positive"), ([1.0] * 9, 8, "too few")],
)
def test_sizes_that_make_no_sense_are_named(shares: list[float], total: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sizes_of(shares, total)
