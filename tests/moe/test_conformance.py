"""What every registered system must do. One of your own: SMOE_MT_SYSTEMS=mine.py pytest tests/moe/test_conformance.py -k mine

Blocks are in evaluation mode unless a test says otherwise, where none of them draws anything.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.local_ranks import on_ranks
from smoe_mt.moe import SYSTEMS, BlockPlace, ExpertBank, MoEBlock, Router, TopK, routing_override
from smoe_mt.moe.distributed.expert_parallel import shard_experts
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.moe.kernels.select import bind_experts
from smoe_mt.moe.system import STRATA
from tests.moe.settings import settings_of

D, F = 8, 16
NAMES = tuple(SYSTEMS)
every_system = pytest.mark.parametrize("name", NAMES)


def groups_of(name: str) -> tuple[int, ...]:
    return (4, 4) if SYSTEMS[name].experts_setting == STRATA else (5,)


def make(name: str, seed: int = 0, **settings: Any) -> MoEBlock:
    """A block in float64, with gates that send tokens different ways."""
    torch.manual_seed(seed)
    cfg = settings_of(name, **{"capacity_factor": 0.0, **settings})
    block = SYSTEMS[name].build(cfg, BlockPlace("encoder", 2, D, F, groups_of(name)))
    for router in routers(block):
        for parameter in router.parameters():
            nn.init.normal_(parameter)
    return block.double().eval()


def without_chance(name: str) -> dict[str, Any]:
    """Noise and dropout of its own: the options that only training reads, at 0 where they can be."""
    options = SYSTEMS[name].options
    own = () if options is None else dataclasses.fields(options)
    in_training = [each for each in own if each.metadata.get("training_only")]
    return {each.name: 0.0 for each in in_training if each.metadata.get("range", (1,))[0] <= 0}


def routers(block: Any) -> list[Router]:
    return [module for module in block.modules() if isinstance(module, Router)]


def banks(block: Any) -> list[ExpertBank]:
    return [module for module in block.modules() if isinstance(module, ExpertBank)]


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@every_system
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    block, x = make(name), tokens(6).requires_grad_()
    names = [each for each, _ in block.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y, routing = torch.func.functional_call(block, dict(zip(names, parameters)), (x,))
        total: Tensor = y.sin().sum() + sum(routing.losses.values()) + sum(routing.sums.values())
        return total

    parameters = tuple(each.detach().clone().requires_grad_() for each in block.parameters())
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True, atol=1e-4)


@every_system
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing_and_counts_for_nothing(name: str, training: bool) -> None:
    block = make(name, capacity_factor=1.0, eom_p=0.0, **without_chance(name)).train(training)
    x = tokens(2, 5)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 5:] = True
    padded = torch.cat([x, torch.full((2, 3, D), 1e6, dtype=torch.double)], dim=1)
    y, routing = block(x)
    y_padded, routing_padded = block(padded, mask)
    torch.testing.assert_close(y_padded[:, :5], y)
    for loss in routing.losses:
        torch.testing.assert_close(routing_padded.losses[loss], routing.losses[loss])
    assert routing_padded.visits[:, :5].equal(routing.visits) and not routing_padded.visits[:, 5:].any()
    assert routing_padded.units[:, :5].equal(routing.units) and not routing_padded.units[:, 5:].any()
    for one, other in zip(routing_padded.load, routing.load, strict=True):
        assert one.asked.equal(other.asked) and one.served.equal(other.served) and one.tokens.equal(other.tokens)


@every_system
def test_what_lies_at_padding_reaches_no_gradient(name: str) -> None:
    block = make(name, **without_chance(name)).train()
    x, mask = tokens(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    x[mask] = torch.nan
    y, routing = block(x, mask)
    (y[~mask].sin().sum() + sum(routing.losses.values())).backward()
    for parameter_name, parameter in block.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name


@every_system
def test_evaluation_does_not_depend_on_the_batch_and_drops_nothing(name: str) -> None:
    block, x = make(name, capacity_factor=0.3), tokens(6, 4)
    together, routing = block(x)
    torch.testing.assert_close(together, torch.cat([block(sentence[None])[0] for sentence in x]))
    assert all(load.asked.equal(load.served) for load in routing.load)


@every_system
def test_all_padding_and_no_tokens_are_no_failures(name: str) -> None:
    block = make(name)
    x = tokens(2, 3)
    y, routing = block(x, torch.ones(2, 3, dtype=torch.bool))
    assert y.equal(x if block.has_residual else torch.zeros_like(x))
    assert not routing.visits.any() and not routing.units.any()
    assert all(loss.item() == 0 for loss in routing.losses.values())
    assert block(x[:, :0])[0].shape == (2, 0, D)


@every_system
def test_training_gives_every_parameter_a_gradient(name: str) -> None:
    """But those that are not trained."""
    block = make(name).train()
    y, routing = block(tokens(40, 5))
    (y.sin().sum() + sum(routing.losses.values())).backward()
    for parameter_name, parameter in block.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@every_system
def test_scores_are_computed_in_float32_at_least_whatever_the_model_computes_in(name: str) -> None:
    block = make(name)
    x = tokens(4)[:, : banks(block)[0].embed_dim]  # what a router reads is as wide as what its experts do
    for router in routers(block):
        assert router(x).dtype is torch.double
        want = router.float()(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert router(x.float()).equal(want)
        assert router.bfloat16()(x.bfloat16()).dtype is torch.float


@every_system
def test_routing_has_a_load_and_an_entropy_for_each_router(name: str) -> None:
    block = make(name)
    _, routing = block(tokens(3, 5))
    assert [load.asked.numel() for load in routing.load] == [router.num_experts for router in routers(block)]
    assert len(routing.entropy) == len(routing.load)
    assert routing.visits.min() >= 1


@every_system
def test_every_loss_has_a_weight_with_tokens_and_without(name: str) -> None:
    block, x = make(name), tokens(3, 5)
    wanted = {"balance", *SYSTEMS[name].loss_weights}
    assert block(x)[1].losses.keys() == wanted
    assert block(x, torch.ones(3, 5, dtype=torch.bool))[1].losses.keys() == wanted


@every_system
def test_units_add_up_to_the_slots_asked_times_the_size_of_the_expert(name: str) -> None:
    block = make(name)
    _, routing = block(tokens(4, 6))
    sizes = [size for bank in banks(block) for size in bank.hidden_sizes]
    asked = torch.zeros(len(sizes), dtype=torch.long)
    for gate, load in enumerate(routing.load):
        first = sum(groups_of(name)[:gate])  # a gate sees the experts from its own group on
        asked[first : first + load.asked.numel()] += load.asked
    assert routing.units.sum() == (asked * torch.tensor(sizes)).sum()


@every_system
def test_expected_rows_are_those_of_undecided_gates(name: str) -> None:
    cfg, seeds, count, rows = settings_of(name), 20, 200, 0.0
    for seed in range(seeds):  # a gate with thresholds of its experts is undecided in the mean alone
        block = make(name, seed)
        for router in routers(block):
            for parameter in router.parameters():
                parameter.data.mul_(0.01)
        _, routing = block(tokens(count))
        rows += sum(int(load.asked.sum()) for load in routing.load) / count / seeds
    expected = sum(SYSTEMS[name].rows_per_token(cfg, groups_of(name)))
    assert rows == pytest.approx(expected, rel=0.1 if SYSTEMS[name].rows_vary else 0)
    assert len(SYSTEMS[name].rows_per_token(cfg, groups_of(name))) == len(banks(block))


@every_system
def test_flops_of_the_rows_are_what_torch_counts_at_least(name: str) -> None:
    block, count = make(name), 30
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, routing = block(tokens(count))
    per_unit = {flops / size for bank in banks(block) for flops, size in zip(bank.flops_per_row(), bank.hidden_sizes)}
    assert len(per_unit) == 1
    rows = sum(int(load.asked.sum()) for load in routing.load) / count
    ffns = SYSTEMS[name].dense_ffns_of(settings_of(name), BlockPlace("encoder", 2, D, F, groups_of(name)), rows)
    wanted = routing.units.sum().item() * per_unit.pop() + ffns * 4 * D * F * count
    scores = sum(2 * D * load.asked.numel() * count for load in routing.load)
    gates = 2 * scores + 2 * D * count  # a loss may compute the logits once more; a gate that mixes
    contraction = 0
    with FlopCounterMode(display=False) as counter_of_weights, torch.no_grad():
        copied = copy.deepcopy(block)
        copied(tokens(0))
    contraction = counter_of_weights.get_total_flops()
    assert wanted <= counter.get_total_flops() <= wanted + gates + contraction


@every_system
def test_a_checkpoint_has_all_that_the_output_depends_on(name: str) -> None:
    block, other, x = make(name), make(name, seed=5), tokens(3, 4)
    want = block(x)[0]
    assert not other(x)[0].equal(want)
    other.load_state_dict(pickle.loads(pickle.dumps(block.state_dict())))
    assert other(x)[0].equal(want) and copy.deepcopy(block)(x)[0].equal(want)


@every_system
def test_stacks_of_a_bank_have_an_entry_for_each_expert_and_lie_under_experts(name: str) -> None:
    block = make(name)
    for path, bank in ((path, module) for path, module in block.named_modules() if isinstance(module, ExpertBank)):
        assert path.split(".")[-1] == "experts"  # by which checkpoints find what can be sharded
        assert all(stack.size(0) == len(bank.members(stack_name)) for stack_name, stack in bank.stacks().items())
        own = tuple(sum(part.numel() for part in bank.slices(e).values()) for e in range(bank.num_experts))
        assert own == bank.parameters_of_experts() and sum(own) == sum(p.numel() for p in bank.stacks().values())


@every_system
def test_the_kernel_that_ran_can_be_asked(name: str) -> None:
    block = make(name)
    for bank in banks(block):
        assert bind_experts(bank, tokens(1), "auto").kernel in ("loop", "any_bank")


@every_system
def test_routing_can_be_overridden(name: str) -> None:
    block, x = make(name), tokens(20)
    want = block(x)[0]
    with routing_override(block, selection=TopK(1)):
        _, routing = block(x)
    assert all(load.asked.equal(load.tokens) for load in routing.load)
    assert block(x)[0].equal(want)


def as_alone(rank: int, name: str, chunks: int) -> None:
    """A sharded block against a whole one: outputs, gradients of what all ranks have, and of this rank's experts."""
    mesh = expert_mesh(2, "cpu")
    alone, sharded = make(name), make(name)
    local = shard_experts(sharded, ExpertRanks(mesh, chunks))
    x = tokens(3, 4 + rank, seed=rank)
    for block in (alone, sharded):
        y, routing = block(x)
        (y.sin().sum() + sum(routing.losses.values())).backward()
    torch.testing.assert_close(sharded(x)[0], alone(x)[0])
    totals = {}
    for parameter_name, parameter in alone.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.distributed.all_reduce(grad)
        totals[parameter_name] = grad
    members = {id(stack): bank.members(path) for bank in local for path, stack in bank.stacks().items()}
    for parameter_name, parameter in sharded.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        total = totals[parameter_name]
        if hasattr(parameter, "expert"):
            total = total[[place for place, e in enumerate(members[id(parameter)]) if e % 2 == rank]]
        else:
            torch.distributed.all_reduce(grad)
        torch.testing.assert_close(grad, total, msg=f"{name}: {parameter_name}")
    assert all(bank.local_experts == tuple(range(rank, bank.num_experts, 2)) for bank in local)
    sharded.load_state_dict(alone.state_dict())


@every_system
@pytest.mark.parametrize("chunks", [1, 2])
def test_experts_on_two_ranks_compute_what_one_computes(name: str, chunks: int) -> None:
    on_ranks(2, as_alone, name, chunks)
