"""Balance by biases, against plain references in float64."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.local_ranks import on_ranks
from smoe_mt.moe import (
    Experts,
    Gate,
    LoadBias,
    MoE,
    RankK,
    Router,
    StratifiedMoE,
    Threshold,
    TopK,
    Weighting,
    after_update,
    routing_override,
)
from smoe_mt.moe.distributed.expert_parallel import shard_experts
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.moe.kernels.fused import kernel_name
from smoe_mt.moe.routers.base import Choices
from smoe_mt.moe.routers.bias import bias_step
from tests.moe.test_conformance import every_system, make, routers
from tests.moe.test_conformance import tokens as conformance_tokens

D, F, E = 8, 16, 5
BIAS = LoadBias(0.01)
STEPS = 100


def made(seed: int = 0, skewed: float = 0.0, **settings: Any) -> MoE:
    torch.manual_seed(seed)
    block = MoE(D, F, E, **{"backend": "loop", "capacity_factor": 0.0, "load_bias": BIAS, **settings}).double()
    if isinstance(block.gate, Gate):
        nn.init.normal_(block.gate.weight)
        block.gate.weight.data[:, 0] += skewed * torch.arange(E)
    return block


def tokens(*shape: int, seed: int = 1) -> Tensor:
    x = torch.randn(*shape, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    x[..., 0] = 1  # a constant, by which a gate prefers experts
    return x


def bias_of(block: nn.Module) -> Tensor:
    (gate,) = (module for module in block.modules() if isinstance(module, Gate))
    assert gate.selection_bias is not None
    return gate.selection_bias


def weight_of(block: MoE) -> nn.Parameter:
    return cast(Gate, block.gate).weight


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_experts_are_chosen_with_the_bias_and_weighed_without(top_k: int, backend: str) -> None:
    block, x = made(top_k=top_k).eval(), tokens(30).requires_grad_()
    if backend == "grouped":
        block, x = block.float(), x.detach().float().requires_grad_()
        block.backend = backend
    bias_of(block).copy_(torch.tensor([-2.5, 0.4, 0.0, 0.3, -1.5]))
    probs = (x @ weight_of(block).T).softmax(dim=1)
    want: list[Tensor] = []
    for t in range(len(x)):
        order = sorted(range(E), key=lambda e: -float(probs[t, e].detach() + bias_of(block)[e]))[:top_k]
        total = sum(probs[t, e] for e in order) if top_k > 1 else 1.0
        outputs = [probs[t, e] / total * block.experts.expert_output(e, x[t : t + 1])[0] for e in order]
        want.append(torch.stack(outputs).sum(dim=0))
    reference = torch.stack(want)
    y, routing = block(x)
    torch.testing.assert_close(y, reference)
    assert routing.load[0].asked.sum() == 30 * top_k  # no expert twice, however low the bias of the others
    weights = [x, weight_of(block), cast(Experts, block.experts).w_in]
    for got, wanted in zip(
        torch.autograd.grad(y.sin().sum(), weights), torch.autograd.grad(reference.sin().sum(), weights)
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_bias_of_zero_changes_no_bit() -> None:
    x = tokens(40)
    plain, biased = made(load_bias=None), made()
    plain_y, plain_routing = plain(x)
    y, routing = biased(x)
    assert y.equal(plain_y) and routing.balance_loss.equal(plain_routing.balance_loss)
    assert biased.state_dict().keys() - plain.state_dict().keys() == {"gate.selection_bias"}


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8, 1.0])
def test_a_threshold_takes_experts_in_the_order_of_the_bias_until_their_probabilities_reach_it(
    threshold: float,
) -> None:
    probs = torch.rand(50, E, dtype=torch.double, generator=torch.Generator().manual_seed(2)).softmax(dim=1)
    order = probs + torch.tensor([-1.0, 0.1, 0.0, 0.3, 0.2])
    choices = Threshold(threshold)(probs, True, order)
    for t in range(50):
        best = sorted(range(E), key=lambda e: -float(order[t, e]))
        sums = list(itertools.accumulate(float(probs[t, e]) for e in best))
        count = E if threshold == 1 else 1 + sum(total < threshold for total in sums)
        wanted = best[: min(count, E)]
        assert choices.experts_TK[t].tolist()[: len(wanted)] == wanted
        assert all(e == E for e in choices.experts_TK[t].tolist()[len(wanted) :])
        assert choices.lead_T[t] == best[0]
    assert choices.priority_TK is not None
    assert choices.priority_TK.equal(
        probs.gather(1, order.argsort(dim=1, descending=True))[:, : choices.priority_TK.size(1)]
    )


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=4), st.floats(1e-4, 1))
def test_a_step_is_towards_the_mean_load_of_the_group(loads: list[list[int]], step: float) -> None:
    got = bias_step(torch.tensor([*itertools.chain(*loads)]), [len(group) for group in loads], step).tolist()
    for group in loads:
        mine, got = got[: len(group)], got[len(group) :]
        signs = [(load * len(group) < sum(group)) - (load * len(group) > sum(group)) for load in group]
        shift = sum(signs) / len(signs) if len(loads) > 1 else 0
        assert mine == pytest.approx([step * (sign - shift) for sign in signs], abs=1e-12)


def test_the_load_is_that_of_all_choices_before_a_capacity_drops_some() -> None:
    block, x = made(capacity_factor=0.4).train(), tokens(40)
    _, routing = block(x)
    asked, served = routing.load[0].asked, routing.load[0].served
    assert served.sum() < asked.sum() == 80
    after_update(block)
    torch.testing.assert_close(bias_of(block), 0.01 * (16 - asked).sign().double())


def test_a_preferred_expert_loses_its_preference() -> None:
    block = made(skewed=0.5, load_bias=LoadBias(0.01)).train()

    def spread() -> float:
        load = block(tokens(300, seed=9))[1].load[0].asked.double()
        return float(load.std() / load.mean())

    before = spread()
    for step in range(STEPS):
        block(tokens(100, seed=step))
        after_update(block)
    assert spread() < 0.3 * before


def test_the_bias_holds_in_evaluation_and_stays_as_it_is() -> None:
    block, x = made(skewed=0.5), tokens(6, 4)
    block.train()(x)
    after_update(block)
    bias_of(block).mul_(30)
    held = bias_of(block).clone()
    y, _ = block.eval()(x)
    other = made(seed=3).eval()
    other.load_state_dict(copy.deepcopy(block.state_dict()))
    assert other(x)[0].equal(y) and not made(skewed=0.5, load_bias=None).eval()(x)[0].equal(y)
    torch.testing.assert_close(y, torch.cat([block(sentence[None])[0] for sentence in x]))
    assert bias_of(block).equal(held)
    after_update(block)  # nothing was counted
    assert bias_of(block).equal(held)


def test_a_gate_that_no_token_reached_keeps_its_bias() -> None:
    block = StratifiedMoE(D, F, (3, 2), load_bias=BIAS).double().train()
    block(tokens(5)[:0])
    after_update(block)
    assert not any(cast(Tensor, gate.selection_bias).any() for gate in block.gates)


@pytest.mark.parametrize("within", ["gate", "stratum"])
def test_a_gate_of_strata_balances_all_experts_or_those_of_each_stratum(within: str) -> None:
    """The first gate prefers the last stratum, and there the last expert."""
    torch.manual_seed(0)
    block = StratifiedMoE(D, F, (3, 3), 1, capacity_factor=0.0, backend="loop", load_bias=LoadBias(0.01, within))
    gate = cast(Gate, block.double().train().gates[0])
    nn.init.normal_(gate.weight, std=0.5)
    with torch.no_grad():  # the norm takes a constant of the tokens away: it comes back as the norm's bias
        cast(nn.LayerNorm, block.norms[0]).bias[0] += 3.0
        gate.weight[:, 0] = torch.tensor([0.0, 0, 0, 0.3, 0.3, 0.6])
    shares = []
    for step in range(200):
        load = block(tokens(100, seed=step))[1].load[0].asked.double()
        shares.append(load / load.sum())
        after_update(block)
    first, last = torch.stack(shares[:5]).mean(dim=0), torch.stack(shares[-50:]).mean(dim=0)
    assert first[5] > 0.45 and first[3:].sum() > 0.7
    for stratum in last.split(3):
        torch.testing.assert_close(stratum, stratum.mean().expand(3), atol=0.05, rtol=0)
    assert abs(last[3:].sum() - (0.5 if within == "gate" else first[3:].sum())) < 0.1
    if within == "stratum":
        assert gate.selection_bias is not None and gate.selection_bias.any()
        torch.testing.assert_close(gate.selection_bias.view(2, 3).sum(dim=1), torch.zeros(2).double())


def test_routing_can_be_overridden_with_what_takes_an_order() -> None:
    block, x = made().eval(), tokens(20)
    bias_of(block)[4] = 5
    with routing_override(block, selection=RankK(1)):
        assert (block(x)[1].load[0].asked == torch.tensor([0, 0, 0, 0, 20])).all()
    refused = pytest.raises(ValueError, match="goes with selections that can be told another order")
    with refused, routing_override(block, selection=TopK(2, "gumbel")):
        pass


class Own:
    """A selection as it may be written outside of the package."""

    def __call__(self, probs_TE: Tensor, may_sync: bool) -> Choices:
        return TopK(1)(probs_TE, may_sync)

    def check(self, visible: int, where: str) -> None: ...


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"second_choice": "gumbel"}, "the gate: balance_bias goes with selections .* and not with TopK"),
        ({"selection": Own()}, "balance_bias goes with selections that can be told another order"),
        ({"router": lambda experts: Scores(experts)}, "balance_bias is of softmax gates, and Scores is none"),
    ],
)
def test_what_it_does_not_go_with_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


class Scores(Router):
    def __init__(self, experts: int) -> None:
        super().__init__(experts, TopK(1), Weighting.RAW)


@pytest.mark.parametrize("settings", [(0.0, "gate"), (-1.0, "gate"), (float("nan"), "gate"), (0.1, "block")])
def test_a_bias_that_makes_no_sense_is_refused(settings: tuple[float, str]) -> None:
    with pytest.raises(ValueError, match="balance_"):
        LoadBias(*settings)


def test_kernels_for_whole_blocks_compute_it() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    block = made(backend="triton").float()
    assert kernel_name(block.parts, tokens(3).float(), "triton") == "triton"


def with_expert_parallelism(rank: int) -> None:
    """Experts on two ranks, each with its own tokens: the bias is that of all tokens in one place."""
    alone, sharded = made(skewed=0.5).train(), made(skewed=0.5).train()
    shard_experts(sharded, ExpertRanks(expert_mesh(2, "cpu"), 1))
    for update in range(3):
        sharded(tokens(7 + rank, seed=10 * update + rank))
        after_update(sharded, torch.distributed.group.WORLD)
        for each in range(2):
            alone(tokens(7 + each, seed=10 * update + each))
        after_update(alone)
    assert bias_of(sharded).equal(bias_of(alone)) and bias_of(alone).any()


def test_ranks_that_share_experts_have_one_bias() -> None:
    on_ranks(2, with_expert_parallelism)


@every_system
def test_every_system_balances_its_load_or_says_that_it_cannot(name: str) -> None:
    try:
        block = make(name, balance_bias=0.01, balance_within="stratum").train()
    except ValueError as error:
        assert re.search("balance_bias is of softmax gates, and .* is none", str(error))
        assert name in ("dynmoe", "stratified_dynmoe", "moefied")
        return
    _, routing = block(conformance_tokens(20, 3))
    after_update(block)
    for router, load in zip(routers(block), routing.load, strict=True):
        assert router.selection_bias is not None
        assert bool(router.selection_bias.any()) or load.asked.unique().numel() <= 2
    block.eval()
    assert block(conformance_tokens(4, 3))[0].isfinite().all()
