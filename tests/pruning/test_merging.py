"""What a block computes after its experts were merged: what is invariant, what is not, and a plain version of the merge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.moe import SYSTEMS, TopK, Weighting
from smoe_mt.moe.shared import SharedExperts
from smoe_mt.moe.system import STRATA
from smoe_mt.pruning.groups import Groups, partition, shares
from smoe_mt.pruning.layout import Layout, refusal
from smoe_mt.pruning.similarity import outputs_alike
from tests.pruning.blocks import D, F, layout_of, make_equal, of_system, plain, pruned, stratified, tokens


def mean_of(*groups: Groups, experts: int | None = None) -> list[Tensor]:
    return [shares(each, torch.zeros(experts or sum(map(len, each))), "mean") for each in groups]


def output(block: Any, x: Tensor) -> Tensor:
    y: Tensor = block(x)[0]
    return y


@pytest.mark.parametrize("name", SYSTEMS)
def test_as_many_experts_as_before_are_the_same_bit_for_bit_or_the_system_is_refused(name: str) -> None:
    """(a) The identity."""
    sizes = (3, 2) if SYSTEMS[name].experts_setting == STRATA else (4,)
    block = of_system(name, sizes).float()
    layout = layout_of(block, name, sizes)
    if refusal(layout):
        return
    alphas = mean_of(*(tuple((e,) for e in range(size)) for size in sizes))
    same = pruned(block, of_system(name, sizes, seed=5).float(), layout, alphas)
    assert all(weight.equal(block.state_dict()[key]) for key, weight in same.state_dict().items())


@pytest.mark.parametrize("name", SYSTEMS)
def test_fewer_experts_of_any_system_make_a_block_that_computes_or_the_system_is_refused(name: str) -> None:
    sizes, fewer = ((3, 4), (2, 3)) if SYSTEMS[name].experts_setting == STRATA else ((5,), (3,))
    block = of_system(name, sizes)
    layout = layout_of(block, name, sizes)
    if refusal(layout):
        return
    groups = [
        tuple((e,) for e in range(want - 1)) + (tuple(range(want - 1, size)),) for size, want in zip(sizes, fewer)
    ]
    smaller = pruned(block, of_system(name, fewer, seed=5), layout, mean_of(*groups))
    assert output(smaller, tokens()).isfinite().all()
    lost = sum(sizes) - sum(fewer)
    own = next(iter(layout.banks.values())).parameters_of_experts()[0]
    rows = sum(sum(sizes[i:]) - sum(fewer[i:]) for i in range(len(sizes))) if layout.nested else lost
    before, after = (sum(p.numel() for p in each.parameters()) for each in (block, smaller))
    width = layout.router(0).weight.size(1)  # type: ignore[operator, union-attr]
    assert before - after == lost * own + rows * width


def test_the_systems_of_the_paper_can_be_pruned_and_shared_tensors_cannot() -> None:
    refused = {}
    for name in ("vanilla", "switch", "eom", "cmr", "stacking", "stratified", "xmoe", "mpoe"):
        sizes = (3, 2) if SYSTEMS[name].experts_setting == STRATA else (4,)
        refused[name] = refusal(layout_of(of_system(name, sizes), name, sizes))
    assert "FactorisedExperts shares" in str(refused.pop("mpoe"))
    assert not any(refused.values())


@pytest.mark.parametrize("top_k", [2, 4])
def test_experts_that_are_all_equal_compute_the_same_where_weights_are_renormalised(top_k: int) -> None:
    """(b) Their rows may differ: whatever is chosen, the weights sum to 1."""
    block, x = plain(6, top_k=top_k), tokens()
    for other in range(1, 6):
        make_equal(block, (), 0, other)
    fewer = pruned(
        block, plain(4, top_k=top_k), layout_of(block, "vanilla", (6,)), mean_of(((0, 2), (1,), (3, 5), (4,)))
    )
    torch.testing.assert_close(output(fewer, x), output(block, x))


def soft(experts: int, **settings: Any) -> Any:
    """The mixture of all experts by the gate's probabilities."""
    return plain(experts, selection=TopK(experts), weighting=Weighting.RAW, **settings)


def test_the_mixture_of_all_experts_is_the_same_with_the_log_of_the_groups_size_and_only_with_it() -> None:
    """(c) Of two equal experts with equal rows."""
    block, x = soft(4), tokens()
    make_equal(block, [block.gate], 0, 2)
    groups: Groups = ((0, 2), (1,), (3,))
    layout = layout_of(block, "vanilla", (4,))
    biased = pruned(block, soft(3, gate_bias=True), layout, mean_of(groups), [groups])
    torch.testing.assert_close(output(biased, x), output(block, x))
    assert not torch.allclose(output(pruned(block, soft(3), layout, mean_of(groups)), x), output(block, x), atol=1e-3)


def test_pruning_twice_adds_up_what_the_biases_stand_for() -> None:
    block, x = soft(4), tokens()
    for other in (1, 2):
        make_equal(block, [block.gate], 0, other)
    once: Groups = ((0, 1), (2,), (3,))
    first = pruned(block, soft(3, gate_bias=True), layout_of(block, "vanilla", (4,)), mean_of(once), [once])
    twice: Groups = ((0, 1), (2,))
    second = pruned(first, soft(2, gate_bias=True), layout_of(first, "vanilla", (3,)), mean_of(twice), [twice])
    torch.testing.assert_close(second.gate.bias.exp(), torch.tensor([3.0, 1.0], dtype=torch.double))
    torch.testing.assert_close(output(second, x), output(block, x))


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("gate_bias", [False, True])
def test_merging_two_equal_experts_changes_what_few_choices_compute(top_k: int, gate_bias: bool) -> None:
    """The merged one has one entry in the softmax in place of two, and a choice becomes free."""
    block, x = plain(4, top_k=top_k), tokens()
    make_equal(block, [block.gate], 0, 2)
    groups: Groups = ((0, 2), (1,), (3,))
    smaller = plain(3, top_k=top_k, gate_bias=gate_bias)
    fewer = pruned(block, smaller, layout_of(block, "vanilla", (4,)), mean_of(groups), [groups] if gate_bias else None)
    assert not torch.allclose(output(fewer, x), output(block, x), atol=1e-3)


def test_strata_of_equal_experts_lead_tokens_the_same_way_and_compute_the_same() -> None:
    """One choice of weight 1: the highest logit, and so the way of a token, is what it was."""
    settings = {"top_k": 1, "weighting": Weighting.RENORMALISED}
    block, x = stratified(3, 2, **settings), tokens()
    for one, other in ((0, 1), (0, 2), (3, 4)):
        make_equal(block, list(block.gates), one, other, firsts=(0, 3))
    fewer = pruned(
        block, stratified(1, 1, **settings), layout_of(block, "stratified", (3, 2)), mean_of(((0, 1, 2),), ((0, 1),))
    )
    (y, routing), (y_fewer, routing_fewer) = block(x), fewer(x)
    torch.testing.assert_close(y_fewer, y)
    assert routing.visits.equal(routing_fewer.visits) and routing.visits.min() < routing.visits.max()


def test_two_equal_experts_become_one_of_their_group_with_their_row() -> None:
    block = plain(4)
    make_equal(block, [block.gate], 1, 3)
    similarity = outputs_alike(block.experts, range(4), tokens())
    groups = partition(similarity, 3)
    assert groups == ((0,), (1, 3), (2,)) and similarity[1, 3].item() == pytest.approx(1)
    fewer = pruned(block, plain(3), layout_of(block, "vanilla", (4,)), mean_of(groups))
    for name, stack in fewer.experts.stacks().items():
        assert stack[1].equal(block.experts.stacks()[name][1])
    assert fewer.gate.weight[1].equal(block.gate.weight[1])


def test_one_share_of_one_is_the_same_as_dropping_the_others() -> None:
    block, x = plain(5), tokens()
    kept = [1, 2, 4]
    alpha = torch.zeros(3, 5, dtype=torch.double)
    alpha[[0, 1, 2], kept] = 1.0
    fewer = pruned(block, plain(3), layout_of(block, "vanilla", (5,)), [alpha])
    dropped = plain(3)
    state = {name: weight[kept] for name, weight in block.state_dict().items()}
    dropped.load_state_dict(state)
    assert output(fewer, x).equal(output(dropped, x))


def test_what_is_dropped_is_not_looked_at() -> None:
    block = plain(3)
    block.experts.w_in[0] = float("nan")
    alpha = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.double)
    assert output(pruned(block, plain(2), layout_of(block, "vanilla", (3,)), [alpha]), tokens()).isfinite().all()


def test_renumbering_experts_changes_no_output_of_the_pruned_block() -> None:
    block, renumbered, x = plain(5), plain(5), tokens()
    order = [3, 0, 4, 2, 1]
    renumbered.load_state_dict({name: weight[order] for name, weight in block.state_dict().items()})
    outputs = []
    for each in (block, renumbered):
        groups = partition(outputs_alike(each.experts, range(5), x), 3)
        outputs.append(output(pruned(each, plain(3), layout_of(each, "vanilla", (5,)), mean_of(groups)), x))
    torch.testing.assert_close(*outputs)


def test_experts_and_rows_of_every_gate_get_the_same_shares() -> None:
    """Against the sums written out, expert by expert, for strata of 3 and 2 that become 2 and 1."""
    block = stratified(3, 2)
    alphas = [
        torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]], dtype=torch.double),
        torch.tensor([[0.4, 0.6]], dtype=torch.double),
    ]
    fewer = pruned(block, stratified(2, 1, top_k=1), layout_of(block, "stratified", (3, 2)), alphas)
    of = {0: {0: 0.25, 2: 0.75}, 1: {1: 1.0}, 2: {3: 0.4, 4: 0.6}}  # new expert -> old experts of the block

    def sums(old: Tensor, new: int, first: int = 0) -> Tensor:
        return sum((share * old[e - first] for e, share in of[new].items()), torch.zeros_like(old[0]))

    for name, stack in fewer.experts.stacks().items():
        for new in of:
            torch.testing.assert_close(stack[new], sums(block.experts.stacks()[name], new))
    for new in of:  # gate 1 sees all experts
        torch.testing.assert_close(fewer.gates[0].weight[new], sums(block.gates[0].weight, new))
    torch.testing.assert_close(fewer.gates[1].weight[0], sums(block.gates[1].weight, 2, first=3))
    assert all(a.equal(b) for a, b in zip(fewer.norms.parameters(), block.norms.parameters()))


def test_layers_of_a_stack_are_merged_each_with_its_own_gate() -> None:
    block = of_system("stacking", (3, 2))
    groups: tuple[Groups, ...] = (((0, 1), (2,)), ((0,), (1,)))
    layout = layout_of(block, "stacking", (3, 2))
    fewer = pruned(block, of_system("stacking", (2, 2), seed=5), layout, mean_of(*groups))
    torch.testing.assert_close(fewer.layers[0].gate.weight[0], block.layers[0].gate.weight[:2].mean(dim=0))
    torch.testing.assert_close(fewer.layers[0].experts.w_out[0], block.layers[0].experts.w_out[:2].mean(dim=0))
    assert fewer.layers[1].gate.weight.equal(block.layers[1].gate.weight)


def test_permuted_hidden_units_merge_badly() -> None:
    """The same function twice, with similarity 1, and another one after the merge: units would have to be aligned first."""
    block, x = plain(3, top_k=1, weighting=Weighting.RENORMALISED), tokens()
    make_equal(block, [block.gate], 0, 1)
    order = torch.arange(F).flip(0)
    experts = block.experts
    for name, dim in (("w_in", 0), ("b_in", 0), ("w_out", 1)):
        weight = getattr(experts, name)
        weight[1] = weight[1].index_select(dim, order)
    torch.testing.assert_close(experts.expert_output(0, x), experts.expert_output(1, x))
    assert outputs_alike(experts, range(3), x)[0, 1].item() == pytest.approx(1)
    fewer = pruned(
        block,
        plain(2, top_k=1, weighting=Weighting.RENORMALISED),
        layout_of(block, "vanilla", (3,)),
        mean_of(((0, 1), (2,))),
    )
    assert not torch.allclose(fewer.experts.expert_output(0, x), experts.expert_output(0, x), atol=0.1)


def test_half_precision_is_summed_in_full() -> None:
    """In float16 the sum of 40,000 and 40,000 would be infinite."""
    block = plain(2).half()
    block.experts.w_in.fill_(40_000.0)
    fewer = pruned(block, plain(1, top_k=1).half(), layout_of(block, "vanilla", (2,)), mean_of(((0, 1),)))
    assert fewer.experts.w_in.dtype is torch.float16 and fewer.experts.w_in.eq(40_000.0).all()


def test_a_bank_of_experts_of_different_sizes_is_refused() -> None:
    block = plain(2)

    class Uneven(type(block.experts)):  # type: ignore[misc]
        uniform_size = None

    block.experts.__class__ = Uneven
    assert refusal(layout_of(block, "vanilla", (2,))) == "they have different sizes"


def test_a_gate_with_more_than_rows_is_refused() -> None:
    block = plain(2)
    block.gate.register_buffer("elsewhere", torch.zeros(3))
    assert "Gate has more than a row for each expert" in str(refusal(layout_of(block, "vanilla", (2,))))


def test_a_layout_knows_its_sets() -> None:
    layout: Layout = layout_of(stratified(3, 2), "stratified", (3, 2))
    assert layout.bank(1)[1] == range(3, 5) and layout.router(1).num_experts == 2
    assert layout.name(1) == "stratum 2 of encoder.layers.1"


def test_biases_that_balance_the_load_are_merged_with_the_rows() -> None:
    balanced = {"balance_bias": 0.01, "balance_within": "gate"}
    block = of_system("vanilla", (4,), **balanced)
    block.gate.selection_bias.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    smaller = of_system("vanilla", (2,), **balanced)
    fewer = pruned(block, smaller, layout_of(block, "vanilla", (4,)), mean_of(((0, 2), (1, 3))))
    assert fewer.gate.selection_bias.tolist() == [1.0, 1.5]


def test_shared_experts_stay_as_they_are() -> None:
    block, smaller = (SharedExperts(plain(experts), 1, D).double() for experts in (3, 2))
    layout = layout_of(block, "vanilla", (3,))
    assert refusal(layout) is None
    fewer = pruned(block, smaller, layout, mean_of(((0, 1), (2,))))
    kept = {name: weight for name, weight in fewer.state_dict().items() if name.startswith("shared.")}
    assert kept and all(weight.equal(block.state_dict()[name]) for name, weight in kept.items())
