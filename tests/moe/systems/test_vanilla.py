"""MoE (top-1, top-2) against the equations, in training and evaluation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_mt.moe import MoE
from tests.moe.reference import reference_pass


@given(
    seed=st.integers(0, 10_000),
    experts=st.integers(2, 7),
    top_k=st.integers(1, 4),
    capacity_factor=st.sampled_from([0.0, 0.4, 1.0, 2.0]),
    tokens=st.integers(1, 24),
    training=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_equals_the_equations(
    seed: int, experts: int, top_k: int, capacity_factor: float, tokens: int, training: bool
) -> None:
    torch.manual_seed(seed)
    top_k = min(top_k, experts)
    layer: Any = MoE(5, 8, experts, top_k=top_k, capacity_factor=capacity_factor).double().train(training)
    torch.nn.init.normal_(layer.gate.weight)
    x = torch.randn(tokens, 5, dtype=torch.double, requires_grad=True)
    capacity = math.ceil(capacity_factor * tokens / experts - 1e-9) if training and capacity_factor else None
    weight = torch.randn_like(x)

    y, routing = layer(x)
    want = reference_pass(list(x), layer.gate.weight, layer.experts, 0, top_k, capacity)

    torch.testing.assert_close(y, torch.stack(want.y))
    torch.testing.assert_close(routing.balance_loss, want.balance_loss)
    assert routing.load[0].asked.tolist() == want.asked and routing.load[0].served.tolist() == want.served
    parameters = [x, *layer.parameters()]
    got = torch.autograd.grad((y * weight).sum() + routing.balance_loss, parameters)
    expected = torch.autograd.grad((torch.stack(want.y) * weight).sum() + want.balance_loss, parameters)
    for g, e in zip(got, expected):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-9)


def test_ties_go_to_the_lowest_expert() -> None:
    layer: Any = MoE(4, 8, 5, top_k=2, capacity_factor=0)
    torch.nn.init.zeros_(layer.gate.weight)
    _, routing = layer(torch.randn(6, 4))
    assert routing.load[0].asked.tolist() == [6, 6, 0, 0, 0]
    assert routing.load[0].tokens.tolist() == [6, 0, 0, 0, 0]


def test_first_choices_are_placed_before_second_choices() -> None:
    """Two experts, everybody wants both, room for half the slots: all first choices of the later tokens would lose
    to second choices of the earlier ones if slots were placed token by token."""
    layer: Any = MoE(2, 4, 2, top_k=2, capacity_factor=1.0)
    layer.gate.weight.data = torch.eye(2)
    x = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
    with torch.no_grad():
        hidden = torch.relu(torch.einsum("efd,td->tef", layer.experts.w_in, x) + layer.experts.b_in)
        outputs = torch.einsum("edf,tef->ted", layer.experts.w_out, hidden) + layer.experts.b_out
        y, routing = layer(x)
    assert routing.load[0].served.tolist() == [2, 2]
    want = torch.stack([outputs[0, 0], outputs[1, 0], outputs[2, 1], outputs[3, 1]])
    torch.testing.assert_close(y, want)


def test_padding_gives_zero_and_uses_no_capacity() -> None:
    torch.manual_seed(0)
    layer: Any = MoE(4, 8, 2, capacity_factor=1.0)
    x = torch.randn(1, 4, 4)
    padded = torch.cat([torch.randn(1, 5, 4), x], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 4])
    y, routing = layer(x)
    y_padded, routing_padded = layer(padded, mask)
    torch.testing.assert_close(y_padded[:, 5:], y)
    assert y_padded[:, :5].eq(0).all()
    assert routing_padded.load[0].served.equal(routing.load[0].served)
    assert routing_padded.visits.tolist() == [[0] * 5 + [1] * 4]


def test_balance_loss_is_one_when_the_gate_is_indifferent() -> None:
    layer: Any = MoE(4, 8, 4)
    torch.nn.init.zeros_(layer.gate.weight)
    _, routing = layer(torch.randn(12, 4))
    assert routing.balance_loss.item() == pytest.approx(1.0)
    assert routing.entropy[0].item() == pytest.approx(math.log(4))


def test_top_1_uses_the_gate_value_itself() -> None:
    torch.manual_seed(1)
    layer: Any = MoE(4, 8, 3, top_k=1, capacity_factor=0)
    y, _ = layer(torch.randn(9, 4))
    (gradient,) = torch.autograd.grad(y.sum(), layer.gate.weight)
    assert gradient.abs().sum() > 0


def test_more_choices_than_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k=2 needs at least 2 experts"):
        MoE(4, 8, 1)
