"""MH-MoE against its equations in float64, against plain blocks of sub-tokens, and against the cost of a plain block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, StratifiedMoE
from smoe_mt.moe.equal_cost import equal_cost, in_proportion
from smoe_mt.moe.kernels import threads
from smoe_mt.moe.strata import expected_visits
from smoe_mt.moe.system import STRATA
from smoe_mt.moe.systems.mhmoe import MultiHeadMoE
from tests.moe.reference import reference_layers, reference_stratified
from tests.moe.settings import padded_batch, settings_of

D, F = 12, 10
BOTH = ("mhmoe", "stratified_mhmoe")


def place(name: str, dim: int = D, ffn_dim: int = F) -> BlockPlace:
    groups = (2, 3) if SYSTEMS[name].experts_setting == STRATA else (4,)
    return BlockPlace("encoder", 2, dim, ffn_dim, groups)


def layer(name: str, heads: int = 3, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    cfg = settings_of(name, **{"capacity_factor": 0.0, "mhmoe_heads": heads, **options})
    block: Any = SYSTEMS[name].build(cfg, place(name)).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert isinstance(block, MultiHeadMoE)
    return block


def as_it_is(block: Any) -> Any:
    """With projections that change nothing."""
    for projection in (block.head, block.merge):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    return block


def reference(block: Any, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(y, balance loss, visits): each token cut by hand, its parts through the reference of the plain or stratified block."""
    h, moe = block.heads, block.moe
    parts = [
        [(block.head.weight @ token + block.head.bias)[j * D // h : (j + 1) * D // h] for j in range(h)]
        for token in x.reshape(-1, D)
    ]
    of_parts = torch.stack([part for token in parts for part in token]).view(x.size(0), -1, D // h)
    mask_of_parts = mask.repeat_interleave(h, dim=1)
    if isinstance(moe, StratifiedMoE):
        factor = moe.settings.capacity_factor
        walked = reference_stratified(
            of_parts, mask_of_parts, moe.strata, moe.gates, moe.norms, moe.experts, 2, factor, block.training
        )
        out, balance, visits = walked.y, walked.balance_loss, walked.visits.view(*mask.shape, h).sum(-1)
    else:
        plain = reference_layers(of_parts, mask_of_parts, [moe])
        out = plain.y + of_parts if block.residual else plain.y
        balance, visits = plain.balance_loss, h * (~mask).long()
    y = out.reshape(*x.shape) @ block.merge.weight.t() + block.merge.bias
    return y.masked_fill(mask[..., None], 0.0), balance, visits


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("capacity_factor", [0.0, 0.7])
@pytest.mark.parametrize("residual", [False, True])
def test_outputs_and_gradients_are_those_of_the_equations(name: str, capacity_factor: float, residual: bool) -> None:
    block = layer(name, capacity_factor=capacity_factor, mhmoe_residual=residual).train()
    x, mask = padded_batch(D)
    x.requires_grad_()
    y, routing = block(x, mask)
    want, balance, visits = reference(block, x, mask)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(routing.balance_loss, balance)
    assert routing.visits.equal(visits)
    inputs = [x, *block.parameters()]
    sides = [
        torch.autograd.grad(out.sin().sum() + loss, inputs)
        for out, loss in ((y, routing.balance_loss), (want, balance))
    ]
    for got, expected in zip(*sides):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_raw_weights_are_the_gates_probabilities() -> None:
    block = as_it_is(layer("mhmoe", mhmoe_weights="raw"))
    x, _ = padded_batch(D)
    parts = x.reshape(-1, D // 3)
    probs, experts = block.moe.gate(parts).topk(2)
    want = [
        sum(p * block.moe.experts.expert_output(int(e), part[None])[0] for p, e in zip(ps, es))
        for part, ps, es in zip(parts, probs, experts)
    ]
    torch.testing.assert_close(block(x)[0], torch.stack(want).view_as(x))


@given(
    heads=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 1000), capacity_factor=st.sampled_from([0.0, 0.8])
)
@settings(max_examples=30, deadline=None)
def test_without_projections_it_is_a_plain_block_of_sub_tokens(heads: int, seed: int, capacity_factor: float) -> None:
    """With one of them, it is the plain block of tokens; exactly, drops included."""
    block = as_it_is(layer("mhmoe", heads, seed, capacity_factor=capacity_factor)).train()
    plain = MoE(D // heads, F, 4, capacity_factor=capacity_factor).double()
    plain.load_state_dict(block.moe.state_dict())
    x, _ = padded_batch(D, seed)
    y, routing = block(x)
    want, routing_of_parts = plain(x.reshape(-1, D // heads))
    torch.testing.assert_close(y, want.view_as(x), rtol=1e-14, atol=1e-14)
    assert routing.balance_loss.equal(routing_of_parts.balance_loss)
    assert routing.load[0].served.equal(routing_of_parts.load[0].served)


@pytest.mark.parametrize("name", BOTH)
def test_the_order_of_the_heads_does_not_matter(name: str) -> None:
    block, other = layer(name), layer(name)
    order = torch.tensor([2, 0, 1])
    rows = torch.arange(D).view(3, -1)[order].reshape(-1)
    with torch.no_grad():
        other.head.weight.copy_(block.head.weight[rows])
        other.head.bias.copy_(block.head.bias[rows])
        other.merge.weight.copy_(block.merge.weight[:, rows])
    x, mask = padded_batch(D)
    (y, routing), (y_other, routing_other) = block(x, mask), other(x, mask)
    torch.testing.assert_close(y_other, y)
    assert routing_other.visits.equal(routing.visits)
    torch.testing.assert_close(routing_other.balance_loss, routing.balance_loss)


def test_sub_tokens_of_a_token_make_different_numbers_of_visits() -> None:
    block = layer("stratified_mhmoe")
    x, mask = padded_batch(D)
    _, routing = block(x, mask)
    assert routing.visits[mask].eq(0).all()
    visits = routing.visits[~mask]
    assert visits.min() >= 3 and visits.max() <= 6 and len(visits.unique()) > 1
    assert routing.units.equal(2 * F * routing.visits)


def test_projections_start_as_in_the_paper() -> None:
    block: Any = SYSTEMS["mhmoe"].build(settings_of("mhmoe"), BlockPlace("encoder", 2, 256, 64, (4,)))
    bound = (6 / 512) ** 0.5  # Xavier
    for projection, gain in ((block.head, 2**-0.5), (block.merge, 1.0)):
        assert projection.weight.abs().max().item() == pytest.approx(gain * bound, rel=0.01)
        assert not projection.bias.any()


@pytest.mark.parametrize("name", BOTH)
def test_dropout_is_outside_of_the_block_but_for_the_release(name: str) -> None:
    for variant, inside in (("paper", 0.0), ("release", 0.3)):
        moe = layer(name, dropout=0.3, variant=variant).moe
        assert moe.settings.expert_dropout == inside and getattr(moe, "dropout", 0.0) == 0.0


# --- experts that cost what plain ones do ---


def cost(block: nn.Module, dim: int, tokens: int) -> tuple[int, float]:
    """(parameters, FLOPs of a token), both counted; gates are left out of the FLOPs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, routing = block.double().eval()(torch.randn(tokens, dim, dtype=torch.double))
    parts = getattr(block, "heads", 1)
    gates = sum(2 * dim * load.asked.numel() * int(load.tokens.sum()) / parts for load in routing.load)
    return sum(p.numel() for p in block.parameters()), (counter.get_total_flops() - gates) / tokens


@pytest.mark.parametrize(
    ("dim", "ffn_dim", "heads", "top_k"), [(64, 128, 2, 1), (64, 128, 4, 2), (64, 256, 4, 1), (128, 256, 2, 2)]
)
def test_with_parity_parameters_and_flops_are_those_of_a_plain_block(
    dim: int, ffn_dim: int, heads: int, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "free_threads", lambda _device: 1)  # products of other threads are not counted
    cfg = settings_of("mhmoe", mhmoe_heads=heads, mhmoe_parity="flops", top_k=top_k)
    system, asked = SYSTEMS["mhmoe"], BlockPlace("encoder", 2, dim, ffn_dim, (8,))
    assert system.resize is not None
    got = cost(system.build(cfg, system.resize(vars(cfg), asked)), dim, 40)
    want = cost(SYSTEMS["vanilla"].build(settings_of("vanilla", top_k=top_k), asked), dim, 40)
    assert got == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("strata", [(4, 4), (2, 2, 2, 2), (4, 12)])
def test_with_strata_too(strata: tuple[int, ...]) -> None:
    """FLOPs are those of expected visits, which no single batch makes: parameters alone are counted."""
    cfg = settings_of("stratified_mhmoe", mhmoe_parity="flops")
    system, asked = SYSTEMS["stratified_mhmoe"], BlockPlace("encoder", 2, 64, 128, strata)
    assert system.resize is not None
    resized = system.resize(vars(cfg), asked)
    blocks = system.build(cfg, resized), SYSTEMS["stratified"].build(settings_of("stratified"), asked)
    got, want = (sum(p.numel() for p in block.parameters()) for block in blocks)
    assert got == pytest.approx(want, rel=0.01)
    rows = sum(system.rows_per_token(cfg, resized.groups))
    flops = rows * 4 * 32 * resized.units + 4 * 64 * 64
    assert flops == pytest.approx(2 * expected_visits(strata) * 4 * 64 * 128, rel=0.01)


def test_the_papers_formula_is_met_where_numbers_are_large() -> None:
    """F' = F - D / k, and E' from the parameters, biases aside."""
    found = equal_cost(1024, 4096, (64,), 2, 2)
    assert found.ffn_dim == pytest.approx(4096 - 512, rel=0.01)
    assert sum(found.groups) == pytest.approx((64 * 4096 - 1024) * 2 / found.ffn_dim, rel=0.01)


@given(
    dim=st.sampled_from([64, 128, 512]),
    times=st.sampled_from([2, 4]),
    experts=st.integers(8, 64),
    top_k=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4, 8]),
)
@settings(max_examples=50, deadline=None)
def test_parity_is_within_a_hundredth_or_refused(dim: int, times: int, experts: int, top_k: int, heads: int) -> None:
    try:
        found = equal_cost(dim, times * dim, (experts,), top_k, heads)
    except ValueError as error:
        assert "the nearest differs by" in str(error)
    else:
        assert found.difference <= 0.01


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), more=st.integers(0, 200))
def test_strata_keep_their_proportions(sizes: list[int], more: int) -> None:
    total = sum(sizes) + more
    found = in_proportion(sizes, total)
    assert sum(found) == total
    assert all(abs(got - total * size / sum(sizes)) < 1 for got, size in zip(found, sizes))


def test_without_parity_nothing_is_resized() -> None:
    system = SYSTEMS["mhmoe"]
    assert system.resize is not None
    assert system.resize(vars(settings_of("mhmoe")), place("mhmoe")) == place("mhmoe")


@pytest.mark.parametrize("name", BOTH)
def test_settings_that_make_no_sense_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="mhmoe_heads=5 does not divide the embedding dimension 12"):
        layer(name, heads=5)
    system, cfg = SYSTEMS[name], settings_of(name, mhmoe_parity="flops")
    assert system.resize is not None
    with pytest.raises(ValueError, match="cost what .* experts of 10 units do .*differs by"):
        system.resize(vars(cfg), replace(place(name), groups=(2,)))
