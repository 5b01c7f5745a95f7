"""StratifiedMoE against the paper's equations: outputs, gradients, balance loss, visits, drops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_mt.moe import Experts, Gate, MoE, RankK, StratifiedMoE, TopK, Weighting, parse_strata
from tests.moe.reference import ReferenceBlock, reference_stratified

STRATA = [(4,), (2, 2), (1, 3), (3, 2), (2, 2, 2), (2, 3, 2), (2, 2, 2, 2)]


def make_block(strata: tuple[int, ...], top_k: int, capacity_factor: float, dim: int = 6) -> Any:
    block: Any = StratifiedMoE(dim, 10, strata, top_k=top_k, capacity_factor=capacity_factor).double()
    for norm in block.norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    for gate in block.gates:  # decided gates: tokens take different ways
        torch.nn.init.normal_(gate.weight, std=1.0)
    return block


def reference(block: Any, x: torch.Tensor, mask: torch.Tensor) -> ReferenceBlock:
    settings_ = block.settings
    return reference_stratified(
        x,
        mask,
        block.strata,
        block.gates,
        block.norms,
        block.experts,
        block.gates[0].selection.k,
        settings_.capacity_factor,
        block.training,
    )


@given(
    seed=st.integers(0, 10_000),
    strata=st.sampled_from(STRATA),
    top_k=st.integers(1, 2),
    capacity_factor=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    training=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_equations(
    seed: int, strata: tuple[int, ...], top_k: int, capacity_factor: float, batch: int, length: int, training: bool
) -> None:
    if strata[-1] < top_k:
        top_k = 1
    torch.manual_seed(seed)
    block = make_block(strata, top_k, capacity_factor).train(training)
    x = torch.randn(batch, length, 6, dtype=torch.double, requires_grad=True)
    mask = torch.rand(batch, length) < 0.3
    mask[0, 0] = False
    weight = torch.randn_like(x)

    y, routing = block(x, mask)
    want = reference(block, x, mask)

    torch.testing.assert_close(y, want.y)
    torch.testing.assert_close(routing.balance_loss, want.balance_loss)
    assert routing.visits.equal(want.visits)
    for load, passed in zip(routing.load, want.passes, strict=True):
        if passed is None:
            assert not load.asked.any() and not load.served.any() and not load.tokens.any()
        else:
            assert load.asked.tolist() == passed.asked
            assert load.served.tolist() == passed.served
            assert load.tokens.tolist() == passed.first_counts
    parameters = [x, *block.parameters()]
    got = torch.autograd.grad((y * weight).sum() + routing.balance_loss, parameters, allow_unused=True)
    expected = torch.autograd.grad((want.y * weight).sum() + want.balance_loss, parameters, allow_unused=True)
    for g, e, p in zip(got, expected, parameters):
        torch.testing.assert_close(
            torch.zeros_like(p) if g is None else g, torch.zeros_like(p) if e is None else e, rtol=1e-7, atol=1e-9
        )


def test_visits_vary_and_slots_are_dropped_in_the_grid() -> None:
    """The grid above would prove little if all tokens took one way or nothing was ever dropped."""
    torch.manual_seed(1)
    block = make_block((2, 2, 2, 2), 2, 1.0)
    _, routing = block(torch.randn(4, 20, 6, dtype=torch.double))
    assert len(routing.visits.unique()) >= 3
    assert any((load.asked > load.served).any() for load in routing.load)


def test_padding_is_returned_as_it_came_and_changes_nothing() -> None:
    torch.manual_seed(2)
    block = make_block((2, 2), 2, 1.0)
    x = torch.randn(2, 6, 6, dtype=torch.double)
    padded = torch.cat([x, torch.full((2, 3, 6), 1e3, dtype=torch.double)], dim=1)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, 6:] = True
    y, routing = block(x)
    y_padded, routing_padded = block(padded, mask)
    torch.testing.assert_close(y_padded[:, :6], y)
    assert y_padded[:, 6:].equal(padded[:, 6:])
    assert routing_padded.visits[:, 6:].eq(0).all()
    torch.testing.assert_close(routing_padded.balance_loss, routing.balance_loss)


def test_all_padding_gives_the_input_back() -> None:
    block = make_block((2, 2), 2, 2.0)
    x = torch.randn(2, 3, 6, dtype=torch.double)
    y, routing = block(x, torch.ones(2, 3, dtype=torch.bool))
    assert y.equal(x) and routing.balance_loss.item() == 0 and routing.visits.eq(0).all()


def test_evaluation_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(3)
    block = make_block((2, 2, 2), 2, 0.5).eval()
    x = torch.randn(5, 7, 6, dtype=torch.double)
    together, _ = block(x)
    alone = torch.cat([block(sentence.unsqueeze(0))[0] for sentence in x])
    torch.testing.assert_close(together, alone)


def test_one_stratum_is_a_plain_pre_norm_moe_layer() -> None:
    torch.manual_seed(4)
    block = make_block((4,), 2, 1.0)
    plain: Any = MoE(6, 10, 4, capacity_factor=1.0).double()
    plain.experts.load_state_dict(block.experts.state_dict())
    plain.gate.load_state_dict(block.gates[0].state_dict())
    x = torch.randn(3, 5, 6, dtype=torch.double)
    y, routing = block(x)
    y_plain, routing_plain = plain(block.norms[0](x))
    torch.testing.assert_close(y, x + y_plain)
    torch.testing.assert_close(routing.balance_loss, routing_plain.balance_loss)


def test_dropout_falls_on_the_combined_output_alone() -> None:
    torch.manual_seed(5)
    block: Any = StratifiedMoE(64, 16, (2, 2), capacity_factor=0, dropout=0.5)
    for gate in block.gates:  # everyone straight to the last stratum: one visit
        torch.nn.init.zeros_(gate.weight)
    block.gates[0].weight.data[2:] = 0.1
    x = torch.ones(1, 50, 64) + torch.rand(1, 50, 64) * 0.1
    with torch.no_grad():
        block.norms[0].bias.fill_(1.0)
        y, routing = block(x)
    assert routing.visits.eq(1).all()
    untouched = (y == x).float().mean().item()
    assert 0.4 < untouched < 0.6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_routes_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(6)
    block: Any = StratifiedMoE(16, 32, (2, 2)).to(dtype)
    x = torch.randn(2, 8, 16, dtype=dtype)
    y, routing = block(x)
    assert y.dtype is dtype and routing.balance_loss.dtype is torch.float32
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.experts.parameters())


@pytest.mark.parametrize(
    ("strata", "words"),
    [
        ("", "positive integers"),
        ("4,0", "positive integers"),
        ("4,-1", "positive integers"),
        ("a,b", "positive"),
        ("2.5", "positive"),
    ],
)
def test_bad_strata_are_refused(strata: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_strata(strata)


@pytest.mark.parametrize("strata", ["4,12", "[4, 12]", "(4,12)", [4, 12], (4, 12)])
def test_strata_may_be_written_in_several_ways(strata: Any) -> None:
    assert parse_strata(strata) == (4, 12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strata": (4, 1)}, "stratum 2 sees 1"),
        ({"top_k": 3}, "stratum 2 sees 2"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"capacity_factor": -1.0}, "capacity_factor"),
        ({"capacity_factor": float("nan")}, "capacity_factor"),
        ({"variant": "papier"}, "variant"),
        ({"activation": "swish2"}, "activation"),
        ({"backend": "fast"}, "backend"),
        ({"ffn_dim": 0}, "positive sizes"),
        ({"dropout": 1.5, "variant": "release"}, "dropout"),
        ({"experts": Experts(3, 8, 16)}, "the block has 4 experts and embed_dim=8, its Experts 3"),
        ({"experts": Experts(4, 6, 16)}, "its Experts 4 and embed_dim=6"),
        ({"router": lambda experts: Gate(8, 4, TopK(1), Weighting.RAW)}, "the gate of stratum 2 should see 2 experts"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    settings_: dict[str, Any] = {"embed_dim": 8, "ffn_dim": 16, "strata": (2, 2)} | options
    with pytest.raises(ValueError, match=words):
        StratifiedMoE(**settings_)


def test_a_given_router_decides_at_every_stratum() -> None:
    torch.manual_seed(0)

    def worst_of(experts: int) -> Gate:
        return Gate(8, experts, RankK(experts), Weighting.RAW)

    block = StratifiedMoE(8, 16, (2, 3), router=worst_of, debug=True).eval()
    assert [gate.where for gate in block.gates] == ["the gate of stratum 1", "the gate of stratum 2"]
    assert all(gate.debug for gate in block.gates)
    x = torch.randn(30, 8)
    _, routing = block(x)
    assert int(routing.load[0].asked.sum()) == 30
    assert routing.load[0].asked.equal(block.gates[0](block.norms[0](x)).argmin(dim=1).bincount(minlength=5))
