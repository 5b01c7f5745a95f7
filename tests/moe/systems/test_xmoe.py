"""XMoE against its equations token by token in float64, and its two ends: Switch and all experts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, Threshold, Weighting
from smoe_mt.moe.experts import Experts
from tests.moe.settings import settings_of

D, F = 6, 8


def layer(threshold: float, experts: int = 4, capacity_factor: float = 0.0, **options: object) -> Any:
    cfg = settings_of("xmoe", capacity_factor=capacity_factor, xmoe_threshold=threshold, **options)
    made: Any = SYSTEMS["xmoe"].build(cfg, BlockPlace("encoder", 2, D, F, (experts,))).double()
    torch.nn.init.normal_(made.gate.weight)
    assert isinstance(made, MoE)
    return made


def reference(
    block: Any, x: Tensor, threshold: float, capacity: int | None
) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """(y, balance loss, slots asked, slots served), one token and one slot after the other."""
    experts = block.gate.num_experts
    probs = [torch.softmax(block.gate.weight @ h, dim=0) for h in x]
    choices: list[list[int]] = []
    for p in probs:
        ranked = sorted(range(experts), key=lambda e: (-p[e].item(), e))
        choices.append([e for j, e in enumerate(ranked) if j == 0 or sum(p[o].item() for o in ranked[:j]) < threshold])
    asked, served = [0] * experts, [0] * experts
    y = [torch.zeros_like(h) for h in x]
    for k in range(experts):  # all first choices, then all second ones; the larger probability first
        takers = [t for t in range(len(x)) if len(choices[t]) > k]
        for t in sorted(takers, key=lambda t: -probs[t][choices[t][k]].item()):
            e = choices[t][k]
            asked[e] += 1
            if capacity is None or served[e] < capacity:
                served[e] += 1
                y[t] = y[t] + probs[t][e] * block.experts.expert_output(e, x[t][None])[0]
    firsts = [sum(c[0] == e for c in choices) / len(x) for e in range(experts)]
    means = [torch.stack([p[e] for p in probs]).mean() for e in range(experts)]
    balance = experts * sum(f * m for f, m in zip(firsts, means))
    return torch.stack(y), torch.as_tensor(balance), asked, served


@given(
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    capacity_factor=st.sampled_from([0.0, 0.6, 1.5]),
    tokens=st.integers(1, 14),
    training=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_outputs_gradients_and_drops_are_those_of_the_equations(
    seed: int, threshold: float, capacity_factor: float, tokens: int, training: bool
) -> None:
    torch.manual_seed(seed)
    block = layer(threshold, capacity_factor=capacity_factor).train(training)
    x = torch.randn(tokens, D, dtype=torch.double, requires_grad=True)
    capacity = math.ceil(capacity_factor * tokens / 4 - 1e-9) if training and capacity_factor else None
    y, routing = block(x)
    want, balance, asked, served = reference(block, x, threshold, capacity)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(routing.balance_loss, balance)
    assert routing.load[0].asked.tolist() == asked and routing.load[0].served.tolist() == served
    weight = torch.randn_like(y)
    inputs = [x, *block.parameters()]
    sides = [
        torch.autograd.grad((out * weight).sum() + loss, inputs)
        for out, loss in ((y, routing.balance_loss), (want, balance))
    ]
    for got, expected in zip(*sides):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("capacity_factor", [0.0, 0.5])
def test_threshold_0_is_switch(capacity_factor: float) -> None:
    """With a capacity too, where the priorities agree: here nothing is dropped of which they could disagree."""
    torch.manual_seed(0)
    block = layer(0.0, xmoe_split=1)
    switch = MoE(D, F, 4, top_k=1, capacity_factor=0.0).double()
    switch.load_state_dict(block.state_dict())
    x = torch.randn(20, D, dtype=torch.double)
    results = [
        (y, *torch.autograd.grad(y.sin().sum(), list(b.parameters()))) for b in (block, switch) for y in [b(x)[0]]
    ]
    assert all(got.equal(want) for got, want in zip(*results))


def test_threshold_1_is_the_weighted_sum_of_all_experts() -> None:
    torch.manual_seed(0)
    block = layer(1.0)
    x = torch.randn(9, D, dtype=torch.double)
    probs = block.gate(x)
    want = sum(probs[:, e, None] * block.experts.expert_output(e, x) for e in range(4))
    torch.testing.assert_close(block(x)[0], want)


def test_a_later_token_with_a_larger_probability_is_served_first() -> None:
    block: Any = MoE(2, 4, 2, capacity_factor=1.0, selection=Threshold(0.0), weighting=Weighting.RAW).double()
    block.gate.weight.data = torch.eye(2).double()
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).double()
    y, routing = block(x)
    assert routing.load[0].served.tolist() == [1, 0]
    assert y[0].eq(0).all() and not y[1].eq(0).all()


def test_units_count_what_each_token_takes() -> None:
    torch.manual_seed(0)
    block = layer(0.7)
    x = torch.randn(2, 9, D, dtype=torch.double)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[1, 4:] = True
    _, routing = block(x, mask)
    assert routing.units.shape == (2, 9) and routing.units[mask].eq(0).all()
    assert routing.units.sum() == routing.load[0].asked.sum() * F // 2
    assert len(routing.units[~mask].unique()) > 1


def test_experts_have_a_part_of_the_hidden_units() -> None:
    block = layer(0.5, xmoe_split=4)
    assert isinstance(block.experts, Experts) and block.experts.hidden_sizes == (2,) * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [({"xmoe_split": 3}, "does not divide the 8"), ({"xmoe_split": 0}, "divide"), ({"xmoe_most": -1}, "xmoe_most")],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layer(0.5, **options)
