"""EOM, conditional routing and stacking against the equations, in training and evaluation, with random padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smoe_mt.moe import ConditionalMoE, MoE, Routing, Stacking, StratifiedMoE
from smoe_mt.moe.routed import ExpertOutputMask
from tests.moe.reference import (
    ReferencePass,
    reference_conditional,
    reference_layers,
    reference_stratified,
)

DIM, FFN = 6, 10
CASES = {
    "seed": st.integers(0, 10_000),
    "top_k": st.integers(1, 2),
    "capacity_factor": st.sampled_from([0.0, 0.5, 2.0]),
    "training": st.booleans(),
}


def make_input(seed: int) -> tuple[Tensor, Tensor]:
    """Some sentences, a third of their places padding but never all."""
    torch.manual_seed(seed)
    x = torch.randn(seed % 3 + 1, seed % 8 + 1, DIM, dtype=torch.double, requires_grad=True)
    mask = torch.rand(x.shape[:2]) < 0.3
    mask[0, 0] = False
    return x, mask


def decide(block: Any) -> None:
    """Gates that send tokens different ways."""
    for name, parameter in block.named_parameters():
        if "gate" in name:
            nn.init.normal_(parameter)


def check(block: Any, x: Tensor, got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    """Same values, and same gradients of x and all parameters."""
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)
    weight = torch.randn_like(got[0])
    parameters = [x, *block.parameters()]
    losses = [(v[0] * weight).sum() + sum(v[1:]) for v in (got, want)]
    g_all, w_all = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    for g, w, p in zip(g_all, w_all, parameters):
        g, w = (torch.zeros_like(p) if v is None else v for v in (g, w))
        torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-9)


def check_load(routing: Routing, passes: Sequence[ReferencePass | None]) -> None:
    for load, passed in zip(routing.load, passes, strict=True):
        if passed is not None:
            assert load.asked.tolist() == passed.asked and load.served.tolist() == passed.served
            assert load.tokens.tolist() == passed.first_counts


def fixed_mask(mask: Any, training: bool) -> Callable[[int, int], float]:
    """Every third slot masked, whatever is drawn; returns what the reference multiplies a slot by."""
    mask.draw = lambda weights_TK: (torch.arange(weights_TK.numel()).view(weights_TK.shape) % 3 > 0).double()
    width = 2
    return (lambda t, k: float((t * width + k) % 3 > 0)) if training else (lambda t, k: 1 - mask.p)


@given(**CASES)
@settings(max_examples=40, deadline=None)
def test_conditional(seed: int, top_k: int, capacity_factor: float, training: bool) -> None:
    x, mask = make_input(seed)
    block: Any = (
        ConditionalMoE(DIM, FFN, 4, top_k, capacity_factor=capacity_factor, gate_dropout=0.0).double().train(training)
    )
    decide(block)
    y, routing = block(x, mask)
    want = reference_conditional(x, mask, block)
    check(block, x, (y, routing.balance_loss, routing.gate_sum), (want.y, want.balance_loss, want.gate_sum))
    check_load(routing, want.passes)
    assert routing.visits.equal((~mask).long())


@given(strata=st.sampled_from([(4,), (2, 3), (2, 2, 2)]), **CASES)
@settings(max_examples=40, deadline=None)
def test_stacking(strata: tuple[int, ...], seed: int, top_k: int, capacity_factor: float, training: bool) -> None:
    x, mask = make_input(seed)
    block: Any = Stacking(DIM, FFN, strata, top_k, capacity_factor=capacity_factor).double().train(training)
    decide(block)
    y, routing = block(x, mask)
    want = reference_layers(x, mask, list(block.layers))
    check(block, x, (y, routing.balance_loss), (want.y, want.balance_loss))
    check_load(routing, want.passes)
    assert routing.visits.equal((~mask).long() * len(strata))


@given(seed=CASES["seed"], capacity_factor=CASES["capacity_factor"], training=CASES["training"])
@settings(max_examples=40, deadline=None)
def test_expert_output_masking(seed: int, capacity_factor: float, training: bool) -> None:
    x, mask = make_input(seed)
    block: Any = MoE(DIM, FFN, 4, 2, capacity_factor, eom_p=0.25).double().train(training)
    decide(block)
    scale = fixed_mask(block.mask, training)
    y, routing = block(x, mask)
    want = reference_layers(x, mask, [block], scale)
    check(block, x, (y, routing.balance_loss), (want.y, want.balance_loss))
    check_load(routing, want.passes)


@given(seed=CASES["seed"], capacity_factor=CASES["capacity_factor"], training=CASES["training"])
@settings(max_examples=40, deadline=None)
def test_expert_output_masking_at_every_visit_of_a_stratified_block(
    seed: int, capacity_factor: float, training: bool
) -> None:
    x, mask = make_input(seed)
    block: Any = StratifiedMoE(DIM, FFN, (2, 2, 2), 2, capacity_factor, eom_p=0.25).double().train(training)
    decide(block)
    scale = fixed_mask(block.mask, training)
    y, routing = block(x, mask)
    want = reference_stratified(
        x, mask, block.strata, block.gates, block.norms, block.experts, 2, capacity_factor, training, scale
    )
    check(block, x, (y, routing.balance_loss), (want.y, want.balance_loss))
    check_load(routing, want.passes)
    assert routing.visits.equal(want.visits)


def test_masks_fall_on_slots_with_their_probability() -> None:
    torch.manual_seed(0)
    weights = torch.full((5000, 2), 0.5)
    masked = ExpertOutputMask(0.1)(weights)
    assert set(masked.unique().tolist()) == {0.0, 0.5}
    assert 0.08 < (masked == 0).double().mean().item() < 0.12


def test_evaluation_scales_what_masking_leaves_on_average() -> None:
    torch.testing.assert_close(ExpertOutputMask(0.1).eval()(torch.ones(3, 2)), torch.full((3, 2), 0.9))


def test_the_mixing_gate_has_rescaled_dropout_in_training_alone() -> None:
    torch.manual_seed(0)
    block: Any = ConditionalMoE(DIM, FFN, 2, gate_dropout=0.5)
    nn.init.zeros_(block.mix.weight)
    nn.init.constant_(block.mix.bias, 20.0)  # g is 1 before dropout
    x = torch.randn(1, 200, DIM)
    _, training = block(x)
    _, evaluation = block.eval()(x)
    assert evaluation.sums["gate"].item() == pytest.approx(200)
    assert training.sums["gate"].item() % 2 == pytest.approx(0, abs=1e-3) and 140 < training.sums["gate"].item() < 260


@pytest.mark.parametrize("kind", [ConditionalMoE, Stacking, MoE])
def test_all_padding_gives_zeros(kind: type[nn.Module]) -> None:
    block = kind(DIM, FFN, 4)
    y, routing = block(torch.randn(2, 3, DIM), torch.ones(2, 3, dtype=torch.bool))
    assert y.eq(0).all() and routing.visits.eq(0).all() and routing.balance_loss.item() == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MoE(DIM, FFN, 4, eom_p=1.0), "eom_p"),
        (lambda: ConditionalMoE(DIM, FFN, 4, gate_dropout=-0.1), "gate_dropout"),
        (lambda: Stacking(DIM, FFN, "4,1"), "top_k=2 needs at least 2 experts"),
        (lambda: Stacking(DIM, FFN, ""), "positive integers"),
    ],
)
def test_settings_that_make_no_sense_are_named(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
