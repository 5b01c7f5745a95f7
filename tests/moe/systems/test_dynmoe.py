"""DynMoE against its equations token by token, against what the released code computed, and experts that leave and join."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.local_ranks import on_ranks
from smoe_mt.moe import SYSTEMS, BlockPlace, RankK, TopK, Weighting, after_update, routing_override
from smoe_mt.moe.routers import forget_passes
from smoe_mt.moe.routers.top_any import TopAny, TopAnyGate
from smoe_mt.moe.system import STRATA
from tests.moe.settings import settings_of

D, F, E = 5, 6, 4
RELEASED = json.loads((Path(__file__).parent / "golden" / "dynmoe.json").read_text())
both_systems = pytest.mark.parametrize("name", ["dynmoe", "stratified_dynmoe"])


def block(name: str = "dynmoe", experts: int = E, **options: Any) -> Any:
    """In float64 and in training mode, each update the end of a window."""
    groups = (2, experts - 2) if SYSTEMS[name].experts_setting == STRATA else (experts,)
    options = {"dynmoe_adapt_every": 1, "dynmoe_adapt_window": 1, **options}
    made: Any = SYSTEMS[name].build(settings_of(name, **options), BlockPlace("encoder", 2, D, F, groups))
    return made.double().train()


def drawn(seed: int, **options: Any) -> Any:
    """With a gate that sends tokens to none, one or several experts; the last expert is not active."""
    torch.manual_seed(seed)
    made = block(**options)
    torch.nn.init.normal_(made.gate.weight)
    torch.nn.init.normal_(made.gate.threshold, std=0.3)
    made.gate.active[-1] = False
    return made


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


# --- against the released code ---


def load_gate(gate: TopAnyGate, given: dict[str, Any]) -> None:
    gate.weight.data, gate.threshold.data = tensor(given["sim"]), tensor(given["gates"])
    gate.active.copy_(torch.tensor(given["active"]))


@pytest.mark.parametrize("case", [name for name in RELEASED if name != "adaptation"])
def test_outputs_losses_and_gradients_are_those_of_the_released_code(case: str) -> None:
    given = RELEASED[case]
    made = block(experts=4, dynmoe_scale=given["scale"], dynmoe_extra_losses=True).train(given["training"])
    load_gate(made.gate, given)
    made.experts.w_in = torch.nn.Parameter(tensor(given["experts"]["w_in"]))
    made.experts.b_in = torch.nn.Parameter(tensor(given["experts"]["b_in"]))
    made.experts.w_out = torch.nn.Parameter(tensor(given["experts"]["w_out"]))
    made.experts.b_out = torch.nn.Parameter(tensor(given["experts"]["b_out"]))
    x = tensor(given["x"]).requires_grad_()
    y, routing = made(x)
    torch.testing.assert_close(y, tensor(given["y"]))
    loss = sum(routing.losses.values())
    of_weights = routing.losses["diversity"] + routing.losses["simplicity"]
    torch.testing.assert_close(of_weights.item(), given["loss_of_weights"])
    torch.testing.assert_close(loss.item(), given["loss"])
    if given["training"]:
        inputs = [x, made.gate.weight, made.gate.threshold]
        found = torch.autograd.grad((y * tensor(given["upstream"])).sum() + loss, inputs)
        for got, name in zip(found, ("x", "sim", "gates"), strict=True):
            torch.testing.assert_close(got, tensor(given["gradients"][name]))


def test_experts_leave_and_join_as_in_the_released_code() -> None:
    given, made = RELEASED["adaptation"], block(experts=4)
    load_gate(made.gate, given["before"])
    for batch in given["batches"]:
        made(tensor(batch))
    torch.testing.assert_close(made.gate.passed_counts.double(), tensor(given["counts"]))
    torch.testing.assert_close(made.gate.passed_silent, tensor(given["silent"]))
    after_update(made)
    torch.testing.assert_close(made.gate.weight.data, tensor(given["after"]["sim"]))
    torch.testing.assert_close(made.gate.threshold.data, tensor(given["after"]["gates"]))
    assert made.gate.active.tolist() == given["after"]["active"]


# --- against the equations ---


def reference(made: Any, x: Tensor, scale: float) -> tuple[Tensor, list[int]]:
    """(y, slots asked), one token after the other; weights have the gradient of their margins."""
    gate, asked, y = made.gate, [0] * E, []
    for h in x:
        scores = [torch.sigmoid(scale * (h @ w) / (h.norm() * w.norm())) * a for w, a in zip(gate.weight, gate.active)]
        margins = [s - torch.sigmoid(scale * g) for s, g in zip(scores, gate.threshold)]
        chosen = [e for e in range(E) if margins[e] > 0]
        if not chosen and not made.training:
            chosen = [max(range(E), key=lambda e: scores[e].item())]
        out = 0 * h
        for e in chosen:
            asked[e] += 1
            margin = margins[e] if made.training else margins[e].detach()
            out = out + (1 + margin - margin.detach()) / len(chosen) * made.experts.expert_output(e, h[None])[0]
        y.append(out)
    return torch.stack(y), asked


@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1.0, 8.0]),
    count=st.integers(1, 12),
    training=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_outputs_and_gradients_are_those_of_the_equations(seed: int, scale: float, count: int, training: bool) -> None:
    made = drawn(seed, dynmoe_scale=scale).train(training)
    x = tokens(count, seed=seed).requires_grad_()
    y, routing = made(x)
    want, asked = reference(made, x, scale)
    torch.testing.assert_close(y, want)
    assert routing.load[0].asked.tolist() == routing.load[0].served.tolist() == asked
    assert routing.units.sum() == sum(asked) * F
    upstream = torch.randn_like(y)
    inputs = [x, *made.parameters()]
    sides = [
        torch.autograd.grad((out * upstream).sum(), inputs, allow_unused=True, materialize_grads=True)
        for out in (y, want)
    ]
    for got, expected in zip(*sides, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_the_gradient_of_the_gate_is_that_of_finite_differences_of_the_margins_over_k() -> None:
    made, x = drawn(3, dynmoe_learn_scale=True), tokens(12)
    upstream = torch.randn(12, D, dtype=torch.double)
    y, _ = made(x)
    parameters = [made.gate.weight, made.gate.threshold, made.gate.log_scale]
    found = torch.autograd.grad((y * upstream).sum(), parameters)
    with torch.no_grad():
        outputs = torch.stack([made.experts.expert_output(e, x) for e in range(E)], dim=1)
        worth = (outputs * upstream[:, None]).sum(dim=2)

        def margins() -> Tensor:
            margin_TE: Tensor = made.gate(x) - made.gate.thresholds(torch.double)
            return margin_TE

        chosen = (margins() > 0).double()
        share = chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1)
        for parameter, gradient in zip(parameters, found, strict=True):
            flat, wanted = parameter.view(-1), []
            for i in range(flat.numel()):
                ends = []
                for step in (1e-6, -2e-6):
                    flat[i] += step
                    ends.append((share * worth * margins()).sum().item())
                flat[i] += 1e-6
                wanted.append((ends[0] - ends[1]) / 2e-6)
            torch.testing.assert_close(gradient.view(-1), tensor(wanted), rtol=1e-4, atol=1e-6)


def test_with_thresholds_that_all_pass_a_token_gets_the_mean_of_the_experts() -> None:
    made, x = block(), tokens(7)
    made.gate.threshold.data.fill_(-torch.inf)
    y, routing = made(x)
    torch.testing.assert_close(y, torch.stack([made.experts.expert_output(e, x) for e in range(E)]).mean(dim=0))
    assert routing.load[0].asked.tolist() == [7] * E


def test_with_thresholds_that_none_passes_a_token_gets_nothing_in_training_and_the_best_expert_in_evaluation() -> None:
    made, x = drawn(0), tokens(7)
    made.gate.threshold.data.fill_(torch.inf)
    y, routing = made(x)
    assert not y.any() and not routing.units.any() and routing.visits.eq(1).all()
    best = made.gate(x).argmax(dim=1).tolist()
    want = torch.stack([made.experts.expert_output(e, h[None])[0] for e, h in zip(best, x)])
    torch.testing.assert_close(made.eval()(x)[0], want)


def test_lengths_of_tokens_and_of_rows_change_no_choice() -> None:
    made, x = drawn(0), tokens(30)
    want = made(x)[1].load[0].asked
    assert made(7 * x)[1].load[0].asked.equal(want)
    made.gate.weight.data *= torch.tensor([0.1, 3.0, 20.0, 1.0])[:, None]
    assert made(x)[1].load[0].asked.equal(want)


def test_experts_that_are_not_active_are_never_chosen_and_get_no_gradient() -> None:
    made, x = drawn(0), tokens(30)
    made.gate.threshold.data[-1] = -torch.inf
    for mode in (True, False):
        assert made.train(mode)(x)[1].load[0].asked[-1] == 0
    y, _ = made.train()(x)
    y.square().sum().backward()
    assert not made.gate.weight.grad[-1].any() and made.gate.weight.grad[:-1].any()
    assert not made.gate.threshold.grad[-1].any() and not made.experts.w_in.grad[-1].any()


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_a_silent_token_is_led_by_the_active_expert_of_the_highest_score_at_any_scale(scale: float) -> None:
    """In float32, where many scores are far smaller than what 1 is rounded to."""
    made = drawn(3, dynmoe_scale=scale).float()
    made.gate.active[:] = torch.tensor([False, True, True, True])
    made.gate.threshold.data.fill_(torch.inf)
    x = tokens(500).float()
    scores_TE = made.gate(x)
    for mode in (True, False):
        choices = made.train(mode).gate.choose(scores_TE, made.gate.selection, True)
        assert choices.lead_T.min() > 0
        assert scores_TE.gather(1, choices.lead_T[:, None]).squeeze(1).equal(scores_TE.amax(dim=1))
    assert choices.experts_TK.squeeze(1).equal(choices.lead_T)


def test_of_orthonormal_rows_only_the_norm_is_a_loss() -> None:
    made = block()
    _, routing = made(tokens(3))
    assert routing.losses["diversity"].item() == pytest.approx(0, abs=1e-6)  # of rows that are drawn in float32
    assert routing.losses["simplicity"].item() == pytest.approx(1)
    assert routing.losses["balance"].item() == routing.losses["efficiency"].item() == 0


def test_diversity_is_of_the_directions_of_active_experts_and_simplicity_of_all_rows() -> None:
    made = block()
    made.gate.weight.data[1] = 3 * made.gate.weight.data[0]
    made.gate.weight.data[2] = made.gate.weight.data[3]
    made.gate.active[3] = False
    _, routing = made(tokens(3))
    assert routing.losses["diversity"].item() == pytest.approx(2**0.5)
    assert routing.losses["simplicity"].item() == pytest.approx((1 + 3 + 1 + 1) / 4)


@both_systems
def test_padding_counts_for_nothing_in_losses_and_statistics(name: str) -> None:
    made, x = block(name, dynmoe_extra_losses=True), tokens(2, 6)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, 6:] = True
    _, want = made(x)
    gates = [module for module in made.modules() if isinstance(module, TopAnyGate)]
    statistics = [statistic.clone() for gate in gates for statistic in gate.statistics()]
    forget_passes(made)
    _, routing = made(torch.cat([x, torch.full((2, 3, D), 1e5, dtype=torch.double)], dim=1), mask)
    for loss in want.losses:
        torch.testing.assert_close(routing.losses[loss], want.losses[loss])
    torch.testing.assert_close([statistic for gate in gates for statistic in gate.statistics()], statistics)


def test_where_nothing_is_read_from_the_device_the_same_is_computed_and_counted() -> None:
    """Backend ``grouped``, which needs float32 and sizes of its own."""
    sides = []
    for backend in ("loop", "grouped"):
        torch.manual_seed(0)
        cfg = settings_of("stratified_dynmoe", moe_backend=backend, dynmoe_extra_losses=True)
        made: Any = SYSTEMS["stratified_dynmoe"].build(cfg, BlockPlace("encoder", 2, 8, 16, (2, 3)))
        for gate in made.gates:
            torch.nn.init.normal_(gate.threshold, std=0.5)
        x = torch.randn(3, 7, 8)
        y, routing = made.train()(x, torch.arange(7)[None] >= torch.tensor([7, 4, 6])[:, None])
        (y.sin().sum() + sum(routing.losses.values())).backward()
        assert any(gate.passed_silent.any() for gate in made.gates)
        gradients = [parameter.grad for parameter in made.parameters()]
        counted = [statistic for gate in made.gates for statistic in gate.statistics()]
        sides.append([y, routing.units, *routing.measures, *gradients, *counted])
    torch.testing.assert_close(*sides)


def test_choices_that_a_capacity_drops_leave_a_token_without() -> None:
    made, x = block(capacity_factor=0.5), tokens(10)
    made.gate.threshold.data.fill_(-torch.inf)
    y, routing = made(x)
    assert routing.load[0].served.tolist() == [2] * E and y.any(dim=1).sum() <= 8


# --- in strata ---


def test_a_token_that_chooses_nobody_passes_its_stratum_unchanged_and_moves_on_by_its_best_score() -> None:
    made = block("stratified_dynmoe")
    made.gates[0].threshold.data.fill_(torch.inf)
    made.gates[1].threshold.data.fill_(torch.inf)
    x = tokens(40)
    y, routing = made(x)
    assert y.equal(x)
    best = made.gates[0](made.norms[0](x)).argmax(dim=1)
    assert routing.visits.equal(torch.where(best < 2, 2, 1))
    assert set(routing.visits.tolist()) == {1, 2}


def test_the_chosen_expert_of_the_largest_margin_leads() -> None:
    scores = tensor([[0.9, 0.6, 0.2], [0.9, 0.1, 0.6]])
    choices = TopAny(tensor([0.8, 0.2, 0.5]))(scores, True)
    assert choices.experts_TK.tolist() == [[1, 0], [0, 2]] and choices.lead_T.tolist() == [1, 0]
    one = TopAny(tensor([0.95, 0.7, 0.55]), silent=True)(scores, True)
    assert one.experts_TK.tolist() == [[3], [2]] and one.lead_T.tolist() == [0, 2]


def test_each_gate_starts_with_the_first_experts_of_each_stratum_that_it_sees() -> None:
    cfg = settings_of("stratified_dynmoe", dynmoe_start=2)
    made: Any = SYSTEMS["stratified_dynmoe"].build(cfg, BlockPlace("encoder", 2, D, F, (3, 1)))
    assert [gate.active.tolist() for gate in made.gates] == [[True, True, False, True], [True]]


# --- experts leave and join ---


def toy() -> tuple[Any, Tensor]:
    """Two active experts of four; nobody takes the second one, and half of the tokens choose nobody."""
    made = block(dynmoe_start=2)
    made.gate.weight.data = torch.eye(E, D).double()
    made.gate.threshold.data = tensor([0.5, 0.5, 0.0, 0.0])
    x = 0.1 * tokens(20)
    x[:10, 0] += 1.0
    x[10:, 4] += 1.0
    return made, x


def test_a_dead_expert_leaves_and_tokens_that_chose_nobody_get_one_of_their_direction() -> None:
    made, x = toy()
    before = made.experts.w_in.detach().clone()
    y, _ = made(x)
    assert y[:10].any(dim=1).all() and not y[10:].any()
    after_update(made)
    assert made.gate.active.tolist() == [True, True, False, False]  # the place of the one that left
    torch.testing.assert_close(made.gate.weight.data[1], x[10:].sum(dim=0) / x[10:].sum(dim=0).norm())
    assert made.gate.threshold.data[1] == 0 and made.experts.w_in.equal(before)
    y, routing = made(x)
    assert (made.gate(x[10:])[:, 1] > 0.5).all() and y.any(dim=1).all()
    assert routing.load[0].asked[2:].eq(0).all()


def test_without_a_free_place_nobody_joins() -> None:
    made, x = toy()
    made.gate.active[:] = True
    made.gate.weight.data[:] = made.gate.weight.data[0].clone()
    made.gate.threshold.data[:] = 0.5
    weight = made.gate.weight.detach().clone()
    made(x)
    assert made.gate.passed_silent.any()
    after_update(made)
    assert made.gate.active.all() and made.gate.weight.equal(weight)


def test_the_last_expert_never_leaves() -> None:
    made, _ = toy()
    after_update(made)  # of no tokens
    assert made.gate.active.tolist() == [True, True, False, False]


def test_a_window_counts_the_last_updates_alone() -> None:
    made, x = block(dynmoe_adapt_every=4, dynmoe_adapt_window=2), tokens(6)
    asked, counts = made(x)[1].load[0].asked, []
    forget_passes(made)
    for _ in range(8):
        made(x)
        after_update(made)
        counts.append(made.gate.counts.tolist())
    none, once = [0] * E, asked.tolist()
    assert counts == [none, none, once, none] * 2
    assert made.gate.updates == 8


@pytest.mark.parametrize("options", [{"dynmoe_adapt_every": 0}, {"dynmoe_adapt_until": 1}])
def test_nobody_leaves_without_adaptation_or_after_its_end(options: dict[str, Any]) -> None:
    made = block(**options)
    made.gate.updates.fill_(1)
    made.gate.threshold.data[0] = torch.inf
    made(tokens(6))
    after_update(made)
    assert made.gate.active.all()


def states(made: Any, updates: range) -> None:
    for number in updates:
        made(tokens(5, seed=number))
        made(tokens(3, seed=100 + number))  # a second batch of the same update
        after_update(made)


@both_systems
def test_a_resumed_training_counts_on_where_it_was(name: str) -> None:
    options = {"dynmoe_adapt_every": 5, "dynmoe_adapt_window": 4, "dynmoe_start": 1}
    torch.manual_seed(0)
    whole, resumed = block(name, **options), block(name, **options)
    first = copy.deepcopy(whole)
    states(whole, range(15))
    states(first, range(8))
    states(resumed, range(2))  # whatever it did before it is loaded
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    states(resumed, range(8, 15))
    for key, value in whole.state_dict().items():
        assert resumed.state_dict()[key].equal(value), key
    assert first.state_dict()["gate.counts" if name == "dynmoe" else "gates.0.counts"].any()


def on_a_part_of_the_batch(rank: int, name: str) -> None:
    options = {"dynmoe_start": 1, "dynmoe_adapt_every": 2, "dynmoe_adapt_window": 2}
    torch.manual_seed(0)
    made = block(name, **options)
    alone = copy.deepcopy(made)
    for update in range(6):
        batches = [tokens(4 + number, seed=10 * update + number) for number in range(2)]
        made(batches[rank])
        after_update(made, torch.distributed.group.WORLD)
        for batch in batches:
            alone(batch)
        after_update(alone)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(made.state_dict()[key], value, msg=key)
    gathered = [torch.zeros_like(p) for p in [next(made.parameters())] * 2]
    torch.distributed.all_gather(gathered, next(made.parameters()).detach())
    assert gathered[0].equal(gathered[1])


@both_systems
def test_ranks_agree_on_who_leaves_and_joins(name: str) -> None:
    on_ranks(2, on_a_part_of_the_batch, name)


def test_after_update_says_when_parameters_have_changed() -> None:
    made, x = toy()
    made.gate.adaptation = type(made.gate.adaptation)(2, 1)
    said = []
    for _ in range(2):
        made(x)
        said.append(after_update(made))
    assert said == [False, True]


# --- the log, overrides, settings ---


def test_the_log_gets_active_experts_chosen_ones_and_the_share_of_silent_tokens() -> None:
    made, x = toy()
    for training, k in ((True, 0.5), (False, 1.0)):
        _, routing = made.train(training)(x)
        (measures,) = routing.measures
        assert {name: value.item() for name, value in measures.items()} == {
            "experts_active": 2,
            "experts_chosen": k,
            "chose_nobody": 0.5,
        }


@pytest.mark.parametrize("name", ["dynmoe", "stratified_dynmoe"])
def test_measures_of_a_batch_without_tokens_are_0(name: str) -> None:
    _, routing = block(name)(tokens(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert len(routing.measures) == len(routing.load)
    assert all(value == 0 for measures in routing.measures for value in measures.values())


def test_an_override_chooses_among_active_experts() -> None:
    made, x = drawn(0).eval(), tokens(20)
    made.gate.active[:] = torch.tensor([True, False, True, False])
    with routing_override(made, selection=TopK(3)):
        y, routing = made(x)
    assert routing.load[0].asked.tolist() == [20, 0, 20, 0]
    torch.testing.assert_close(y, (made.experts.expert_output(0, x) + made.experts.expert_output(2, x)) / 2)
    with routing_override(made, selection=RankK(2), weighting=Weighting.RAW):
        y, _ = made(x)
    second = [0 if scores[0] < scores[2] else 2 for scores in made.gate(x)]
    want = [made.gate(x)[t, e] * made.experts.expert_output(e, x[t : t + 1])[0] for t, e in enumerate(second)]
    torch.testing.assert_close(y, torch.stack(want))


def test_a_learned_scale_is_at_most_100() -> None:
    gate = TopAnyGate(D, (E,), learn_scale=True)
    assert gate.log_scale is not None and gate.log_scale.item() == 0
    gate.log_scale.data.fill_(50.0)
    gate.threshold.data.fill_(0.01)
    torch.testing.assert_close(gate.thresholds(torch.float), torch.full((E,), 1.0).sigmoid())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dynmoe_start": -1}, "dynmoe_start"),
        ({"dynmoe_adapt_every": -1}, "dynmoe_adapt_every"),
        ({"dynmoe_adapt_every": 10, "dynmoe_adapt_window": 11}, "dynmoe_adapt_window"),
        ({"dynmoe_scale": 0.0}, "dynmoe_scale"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        block(**options)
