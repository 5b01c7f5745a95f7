"""The gate by itself: what it says of numbers that are none, and the released code's second choice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from smoe_mt.moe import ConditionalMoE, Gate, MoE, Stacking, StratifiedMoE, TopK
from smoe_mt.moe.routers.base import Weighting, combine_weights
from smoe_mt.moe.routers.top_k import choose

BLOCKS = {
    "vanilla": lambda **o: MoE(8, 8, 4, **o),
    "cmr": lambda **o: ConditionalMoE(8, 8, 4, **o),
    "stacking": lambda **o: Stacking(8, 8, (4, 4), **o),
    "stratified": lambda **o: StratifiedMoE(8, 8, (2, 4), **o),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_a_nan_is_never_silent(name: str, backend: str) -> None:
    x = torch.randn(6, 8)
    x[2, 3] = math.nan
    y, routing = BLOCKS[name](backend=backend)(x)
    assert y[2].isnan().all() and routing.balance_loss.isnan()
    assert y[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("name", BLOCKS)
def test_debug_names_the_gate_and_what_is_wrong(name: str) -> None:
    block = BLOCKS[name](debug=True)
    x = torch.randn(6, 8)
    block(x)
    x[2, 3] = math.nan
    with pytest.raises(
        FloatingPointError, match="the gate.*of 1 of 6 tokens.*input is not finite, its weights are finite"
    ):
        block(x)


def test_debug_names_the_stratum() -> None:
    block: Any = StratifiedMoE(8, 8, (2, 4), debug=True)
    nn.init.normal_(block.gates[0].weight)
    block.gates[1].weight.data[0, 0] = math.inf
    with pytest.raises(FloatingPointError, match="stratum 2.*input is finite, its weights are not finite"):
        block(torch.randn(200, 8))


def test_a_gumbel_second_choice_is_drawn_by_the_gates_probabilities_without_the_first() -> None:
    torch.manual_seed(0)
    probs = torch.tensor([0.1, 0.5, 0.3, 0.1]).expand(20_000, 4)
    choices = choose(probs, 2, "gumbel")
    assert choices[:, 0].unique().tolist() == [1]
    shares = choices[:, 1].bincount(minlength=4) / len(choices)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.0, 0.6, 0.2]), rtol=0, atol=0.02)


def test_gumbel_draws_in_evaluation_too_and_argmax_does_not() -> None:
    x = torch.randn(50, 8)
    for second_choice, same in (("gumbel", False), ("argmax", True)):
        block: Any = MoE(8, 8, 4, second_choice=second_choice).eval()
        assert block(x)[0].equal(block(x)[0]) is same


def test_an_unknown_second_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown second_choice 'best': choose one of argmax, gumbel"):
        MoE(8, 8, 4, second_choice="best")


# --- weights of the choices ---

PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
CHOICES = torch.tensor([[0, 1], [1, 3]])  # the second token has one choice alone
KEPT = torch.tensor([[True, True], [True, False]])


def weights(weighting: Weighting, kept: torch.Tensor = KEPT) -> list[list[float]]:
    found = combine_weights(PROBS, CHOICES, kept, weighting, complete=False)
    return [[round(value, 6) for value in row] for row in found.tolist()]


def test_raw_weights_are_the_probabilities() -> None:
    assert weights(Weighting.RAW) == [[0.5, 0.3], [0.6, 0.0]]


def test_renormalised_weights_add_up_to_1_over_what_was_served() -> None:
    assert weights(Weighting.RENORMALISED) == [[0.625, 0.375], [1.0, 0.0]]


def test_uniform_weights_are_1_over_the_number_served() -> None:
    assert weights(Weighting.UNIFORM) == [[0.5, 0.5], [1.0, 0.0]]


def test_a_token_that_lost_all_its_slots_has_weights_of_0() -> None:
    for weighting in Weighting:
        assert weights(weighting, torch.zeros(2, 2, dtype=torch.bool)) == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", BLOCKS)
def test_gates_have_a_bias_where_it_is_asked_for_and_zeros_change_nothing(name: str) -> None:
    x, blocks = torch.randn(6, 8), []
    for gate_bias in (False, True):
        torch.manual_seed(0)
        blocks.append(BLOCKS[name](gate_bias=gate_bias).eval())
    without, biased = blocks
    added = biased.state_dict().keys() - without.state_dict().keys()
    assert added and all(each.endswith("bias") and ("gate." in each or "gates." in each) for each in added)
    biased.load_state_dict({**biased.state_dict(), **without.state_dict()})
    assert biased(x)[0].equal(without(x)[0])


def test_a_bias_is_added_to_the_logits_and_gets_a_gradient() -> None:
    gate = Gate(8, 4, TopK(2), Weighting.RENORMALISED, bias=True).double()
    assert gate.bias is not None
    nn.init.normal_(gate.bias)
    x = torch.randn(6, 8, dtype=torch.double)
    torch.testing.assert_close(gate(x), torch.softmax(x @ gate.weight.t() + gate.bias, dim=1))
    gate(x)[:, 0].sum().backward()
    assert gate.bias.grad is not None and gate.bias.grad.abs().min() > 0


def test_a_bias_is_computed_in_float32_whatever_the_model_computes_in() -> None:
    gate = Gate(8, 4, TopK(2), Weighting.RENORMALISED, bias=True)
    x = torch.randn(6, 8)
    want = gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(x).equal(want)
    assert gate.bfloat16()(x.bfloat16()).dtype is torch.float
