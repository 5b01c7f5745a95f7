"""HMoE against its equations token by token in float64, alone and in strata; its sizes, its penalty, its ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, Threshold, TopK, Weighting
from smoe_mt.moe.experts import RaggedExperts
from smoe_mt.moe.losses import entropy_loss, mean_entropy, size_penalty
from smoe_mt.moe.strata import expected_visits
from smoe_mt.moe.systems.hmoe import sizes
from tests.moe.settings import settings_of

D, F = 6, 8
LOSSES = ("balance", "penalty", "entropy")


def block(name: str = "hmoe", groups: tuple[int, ...] = (4,), **options: object) -> Any:
    """In float64, with gates that send tokens different ways."""
    cfg = settings_of(name, **{"capacity_factor": 0.0, "hmoe_sizes": [2, 3, 4, 7], **options})
    made: Any = SYSTEMS[name].build(cfg, BlockPlace("encoder", 2, D, F, groups)).double()
    for gate in gates_of(made):
        torch.nn.init.normal_(gate.weight)
    return made


def gates_of(made: Any) -> list[Any]:
    return list(made.gates) if hasattr(made, "gates") else [made.gate]


# --- the equations, one token after the other ---


@dataclass
class Pass:
    """What a gate made of its tokens."""

    y: list[Tensor] = field(default_factory=list)
    lead: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)


def expert(bank: RaggedExperts, e: int, h: Tensor) -> Tensor:
    own = {name.partition(".")[0]: weight for name, weight in bank.slices(e).items()}
    return own["w_out"] @ torch.relu(own["w_in"] @ h + own["b_in"]) + own["b_out"]


def chosen(probs: list[float], routing: str, top_k: int, top_p: float) -> list[int]:
    ranked = sorted(range(len(probs)), key=lambda e: (-probs[e], e))
    if routing == "top_k":
        return ranked[:top_k]
    return [e for j, e in enumerate(ranked) if j == 0 or sum(probs[o] for o in ranked[:j]) < top_p]


def reference_pass(
    tokens: list[Tensor], weight: Tensor, bank: RaggedExperts, first: int, routing: str, top_p: float, factor: float
) -> Pass:
    experts, sizes_ = weight.size(0), bank.hidden_sizes[first:]
    probs = [torch.softmax(weight @ h, dim=0) for h in tokens]
    choices = [chosen(p.tolist(), routing, 2, top_p) for p in probs]
    capacity = math.ceil(factor * len(tokens) / experts - 1e-9) if factor else len(tokens)
    served, kept = [0] * experts, [[False] * len(c) for c in choices]
    for k in range(experts):
        takers = [t for t in range(len(tokens)) if len(choices[t]) > k]
        if routing == "top_p":  # the larger probability first
            takers.sort(key=lambda t: -probs[t][choices[t][k]].item())
        for t in takers:
            if served[choices[t][k]] < capacity:
                served[choices[t][k]] += 1
                kept[t][k] = True
    out = Pass(lead=[c[0] for c in choices], units=[sum(sizes_[e] for e in c) for c in choices])
    for h, p, c, there in zip(tokens, probs, choices, kept):
        own = [e for e, is_kept in zip(c, there) if is_kept]
        total = sum((p[e] for e in own), torch.zeros(()))
        out.y.append(sum((p[e] / total * expert(bank, first + e, h) for e in own), torch.zeros_like(h)))
    mean_size = sum(sizes_) / experts
    zero = torch.zeros((), dtype=torch.double)
    out.losses = dict.fromkeys(LOSSES, zero)
    for e in range(experts):
        mean = torch.stack([p[e] for p in probs]).mean()
        units = sum(sizes_[e] / mean_size * (e in c) for c in choices) / len(tokens)
        firsts = sum(c[0] == e for c in choices) / len(tokens)
        out.losses["penalty"] = out.losses["penalty"] + experts * units * mean
        out.losses["balance"] = out.losses["balance"] + experts * firsts * mean
    if routing == "top_p":
        out.losses["entropy"] = torch.stack([-(p * p.log()).sum() for p in probs]).mean()
    return out


def reference(made: Any, x: Tensor, strata: tuple[int, ...], routing: str, top_p: float, factor: float) -> Any:
    """(y, losses, units of each token); without strata there are no norms and no residuals."""
    gates, nested = gates_of(made), hasattr(made, "gates")
    h, at, units = list(x), [0] * len(x), [0] * len(x)
    of_expert = [i for i, size in enumerate(strata) for _ in range(size)]
    losses = dict.fromkeys(LOSSES, torch.zeros((), dtype=torch.double))
    for i, gate in enumerate(gates):
        here = [t for t in range(len(x)) if at[t] == i]
        if not here:
            continue
        tokens = [h[t] for t in here]
        if nested:
            norm = made.norms[i]
            tokens = [functional.layer_norm(token, (D,), norm.weight, norm.bias) for token in tokens]
        first = sum(strata[:i])
        out = reference_pass(tokens, gate.weight, made.experts, first, routing, top_p, factor)
        for t, y, lead, own in zip(here, out.y, out.lead, out.units):
            h[t] = h[t] + y if nested else y
            at[t] = of_expert[first + lead] + 1
            units[t] += own
        losses = {name: losses[name] + out.losses[name] / len(gates) for name in LOSSES}
    return torch.stack(h), losses, units


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["hmoe", "stratified_hmoe"]),
    routing=st.sampled_from(["top_k", "top_p"]),
    top_p=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    factor=st.sampled_from([0.0, 0.7, 1.5]),
    tokens=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_outputs_losses_gradients_and_units_are_those_of_the_equations(
    seed: int, name: str, routing: str, top_p: float, factor: float, tokens: int
) -> None:
    torch.manual_seed(seed)
    strata = (2, 2) if name == "stratified_hmoe" else (4,)
    made = block(name, strata, hmoe_routing=routing, hmoe_top_p=top_p, capacity_factor=factor).train()
    x = torch.randn(tokens, D, dtype=torch.double, requires_grad=True)
    y, found = made(x)
    want, losses, units = reference(made, x, strata, routing, top_p, factor)
    torch.testing.assert_close(y, want)
    assert found.units.tolist() == units
    for loss in LOSSES:
        torch.testing.assert_close(found.losses[loss], losses[loss])
    weight, inputs = torch.randn_like(y), [x, *made.parameters()]
    sides = [
        torch.autograd.grad(
            (out * weight).sum() + sum(of[loss] for loss in LOSSES), inputs, allow_unused=True, materialize_grads=True
        )
        for out, of in ((y, found.losses), (want, losses))
    ]
    for got, expected in zip(*sides):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


# --- the ends that are other systems ---


@pytest.mark.parametrize("top_k", [1, 2])
def test_equal_sizes_are_vanilla(top_k: int) -> None:
    made = block(hmoe_sizes=[1, 1, 1, 1], hmoe_routing="top_k", top_k=top_k, capacity_factor=1.0)
    plain: Any = MoE(D, F, 4, top_k=top_k, capacity_factor=1.0).double()
    plain.gate.load_state_dict(made.gate.state_dict())
    plain.experts.load_state_dict({name.partition(".")[0]: each for name, each in made.experts.state_dict().items()})
    x = torch.randn(20, D, dtype=torch.double)
    results = [
        (y, *torch.autograd.grad(y.sin().sum(), list(each.parameters())))
        for each in (made, plain)
        for y in [each(x)[0]]
    ]
    assert all(got.equal(want) for got, want in zip(*results))


def test_one_expert_is_a_dense_ffn() -> None:
    x = torch.randn(9, D, dtype=torch.double)
    for routing in ("top_p", "top_k"):
        made = block(groups=(1,), hmoe_sizes="hybrid", hmoe_routing=routing, top_k=1)
        assert made.experts.hidden_sizes == (F,)
        torch.testing.assert_close(made(x)[0], torch.stack([expert(made.experts, 0, h) for h in x]))


def test_a_threshold_of_0_is_one_expert_and_more_of_it_never_takes_experts_away() -> None:
    probs = torch.rand(40, 6, dtype=torch.double).pow(3)
    probs /= probs.sum(dim=1, keepdim=True)
    before = torch.zeros(40, 6, dtype=torch.bool)
    for threshold in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        experts = Threshold(threshold)(probs, True).experts_TK
        taken = (experts[:, :, None] == torch.arange(6)).any(dim=1)
        assert (taken | ~before).all() and (threshold or taken.sum(dim=1).eq(1).all())
        total = (probs * taken).sum(dim=1)
        assert (total >= threshold - 1e-12).all()
        least = probs.masked_fill(~taken, 2.0).min(dim=1).values  # without the least probable one it is not reached
        assert ((total - least < threshold) | (taken.sum(dim=1) == 1)).all()
        before = taken


def test_chosen_experts_are_renormalised_also_with_top_p() -> None:
    gate = block().gate
    assert (gate.selection, gate.weighting) == (Threshold(0.6), Weighting.RENORMALISED)
    gate = block(hmoe_routing="top_k", top_k=1).gate
    assert (gate.selection, gate.weighting) == (TopK(1), Weighting.RAW)  # renormalised, it would have no gradient


# --- losses ---


def uniform(experts: int, tokens: int = 6) -> Tensor:
    return torch.full((tokens, experts), 1 / experts, dtype=torch.double)


def test_the_penalty_of_equal_sizes_is_the_load_balancing_loss_over_all_choices() -> None:
    torch.manual_seed(1)
    x = torch.randn(30, D, dtype=torch.double)
    made = block(hmoe_sizes=[3, 3, 3, 3], hmoe_routing="top_k")
    _, routing = made(x)
    mean_E = made.gate(x).mean(dim=0)
    want = 4 * (routing.load[0].asked / 30 * mean_E).sum()
    torch.testing.assert_close(routing.losses["penalty"], want)
    assert abs(routing.losses["penalty"] - routing.losses["balance"]) > 0.1  # which counts first choices alone
    _, one = block(hmoe_sizes=[3, 3, 3, 3], hmoe_routing="top_k", top_k=1)(x)
    torch.testing.assert_close(one.losses["penalty"], one.losses["balance"])


def test_the_penalty_at_balance_is_the_number_of_choices_whatever_the_scale_of_the_sizes() -> None:
    asked = torch.tensor([3, 3, 3, 3])  # two choices of six tokens
    for scale in (1, 256):
        sizes_E = scale * torch.tensor([9, 9, 9, 9])
        assert size_penalty(uniform(4), asked, sizes_E).item() == pytest.approx(2)


def test_the_gradient_of_the_penalty_lowers_experts_above_the_mean_size_alone() -> None:
    logits = torch.zeros(6, 8, dtype=torch.double, requires_grad=True)
    sizes_E = torch.tensor([9, 11, 13, 15, 17, 19, 21, 23])
    size_penalty(logits.softmax(dim=1), torch.full((8,), 2), sizes_E).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).equal((sizes_E > 16).expand(6, 8)) and (logits.grad < 0).equal((sizes_E < 16).expand(6, 8))


def test_the_entropy_loss_narrows_the_gate_and_has_a_finite_gradient_at_0() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1000.0]], requires_grad=True)
    probs = logits.softmax(dim=1)
    loss = entropy_loss(probs)
    loss.backward()
    torch.testing.assert_close(loss, mean_entropy(probs))
    assert logits.grad is not None and logits.grad.isfinite().all()
    after = (logits - logits.grad).softmax(dim=1)
    assert after[0, 0] > probs[0, 0]


def test_the_entropy_loss_is_one_of_top_p_alone() -> None:
    x = torch.randn(9, D, dtype=torch.double)
    assert block()(x)[1].losses["entropy"] > 0
    assert block(hmoe_routing="top_k")(x)[1].losses["entropy"] == 0


def test_a_gate_penalises_by_the_mean_size_of_the_experts_that_it_sees() -> None:
    made = block("stratified_hmoe", (2, 2), hmoe_sizes=[1, 1, 3, 3], hmoe_routing="top_k")
    assert [gate.sizes_E.tolist() for gate in made.gates] == [[4, 4, 12, 12], [12, 12]]


def test_sizes_are_no_part_of_a_checkpoint() -> None:
    assert not [name for name in block().state_dict() if "sizes" in name]


def test_padding_counts_for_nothing_in_the_losses() -> None:
    made, x = block(), torch.randn(2, 5, D, dtype=torch.double)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 2:] = True
    masked, plain = made(x, mask)[1].losses, made(x[~mask])[1].losses
    for loss in LOSSES:
        torch.testing.assert_close(masked[loss], plain[loss])


# --- sizes ---


def test_rules_are_those_of_the_paper() -> None:
    """3B: eight experts of 4096 units on average, 256 a unit; 0.4B: 12,288 together."""
    assert sizes("arithmetic", 8, 4096) == (2304, 2816, 3328, 3840, 4352, 4864, 5376, 5888)
    assert sizes("arithmetic", 8, 1536) == (864, 1056, 1248, 1440, 1632, 1824, 2016, 2208)
    assert sizes("hybrid", 8, 2048) == (1024,) * 4 + (2048,) * 2 + (4096,) * 2
    assert sizes("geometric", 8, 255 * 8) == tuple(64 * 2**e for e in range(8))


@pytest.mark.parametrize("rule", ["arithmetic", "geometric", "hybrid"])
@pytest.mark.parametrize(("experts", "ffn_dim"), [(8, 2048), (16, 128), (5, 128), (1, 64), (3, 7)])
def test_rules_keep_the_hidden_units_of_equal_experts(rule: str, experts: int, ffn_dim: int) -> None:
    found = sizes(rule, experts, ffn_dim)
    assert len(found) == experts and sum(found) == experts * ffn_dim
    assert list(found) == sorted(found)


@pytest.mark.parametrize("given", ["1, 1,2,4", [1, 1, 2, 4], (1.0, 1.0, 2.0, 4.0), "[1,1,2,4]"])
def test_sizes_can_be_given(given: Any) -> None:
    assert sizes(given, 4, 64) == (32, 32, 64, 128)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("cubic", "must be one of arithmetic, geometric, hybrid"),
        ([1, 2], "has 2 numbers, but the block has 4 experts"),
        ([1, 2, 3, 0], "a positive number for each expert"),
        ([1, 2, 3, float("inf")], "a positive number for each expert"),
        ([1, 2, 3, "x"], "must be one of"),
        (7, "must be one of"),
        ([[1], [2], [3], [4]], "must be one of"),
        ("", "must be one of"),
    ],
)
def test_sizes_that_make_no_sense_are_named(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sizes(given, 4, 64)


# --- costs ---


def test_rows_of_strata_are_choices_at_each_gate_that_a_token_reaches() -> None:
    system = SYSTEMS["stratified_hmoe"]
    assert system.rows_per_token(settings_of("stratified_hmoe", hmoe_routing="top_k"), (4, 12)) == pytest.approx(
        (2 * expected_visits((4, 12)),)
    )
    # 5 of 8 experts, and 3 of 4 for the half of the tokens that the first stratum leads on
    assert system.rows_per_token(settings_of("stratified_hmoe"), (4, 4)) == pytest.approx((5 + 3 / 2,))
