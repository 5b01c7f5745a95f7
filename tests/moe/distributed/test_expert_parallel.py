"""Experts spread over ranks compute what one process computes: outputs, gradients, decoding at each rank's own pace."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from benchmarks.local_ranks import on_ranks
from smoe_mt.moe import ConditionalMoE, MoE, Stacking, StratifiedMoE
from smoe_mt.moe.distributed.exchange import Route, expert_major
from smoe_mt.moe.distributed.expert_parallel import serve, shard, shard_experts
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.moe.experts import Experts

D, F = 8, 16

BLOCKS: dict[str, Any] = {
    "vanilla": lambda: MoE(D, F, 5),
    "switch": lambda: MoE(D, F, 4, top_k=1, capacity_factor=1.0),
    "cmr": lambda: ConditionalMoE(D, F, 4, gate_dropout=0.0),
    "stacking": lambda: Stacking(D, F, (4, 4)),
    "stratified": lambda: StratifiedMoE(D, F, (4, 6)),
    "four strata": lambda: StratifiedMoE(D, F, (2, 2, 2, 2), capacity_factor=1.0),
    "release": lambda: StratifiedMoE(D, F, (4, 4), variant="release"),
    "dropless": lambda: StratifiedMoE(D, F, (4, 4), capacity_factor=0.0),
}


def block(name: str) -> Any:
    torch.manual_seed(3)
    made: Any = BLOCKS[name]().double()
    return made


def inputs(rank: int) -> tuple[Tensor, Tensor]:
    """Another number of tokens on each rank, padding, and none at all on rank 1 (a batch of padding)."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(3, 5 + 2 * rank, D, dtype=torch.float64, generator=generator)
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding[0, 3:] = True
    if rank == 1:
        padding[:] = True
    return x.requires_grad_(), padding


def loss_of(model: Any, x: Tensor, padding: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    y, routing = model(x, padding)
    return y, (y * torch.arange(1, D + 1)).sum() * (rank + 1) + routing.balance_loss


def same_as_alone(rank: int, size: int, chunks: int) -> None:
    """Every block, with two backward passes added up, against a whole one with its gradients added up over ranks."""
    mesh = expert_mesh(size, "cpu")
    for name in BLOCKS:
        alone, shared = block(name), block(name)
        experts = shard_experts(shared, ExpertRanks(mesh, chunks))
        for _ in range(2):
            x, padding = inputs(rank)
            y, loss = loss_of(alone, x, padding, rank)
            loss.backward()
            x_shared = x.detach().clone().requires_grad_()
            y_shared, loss_shared = loss_of(shared, x_shared, padding, rank)
            loss_shared.backward()
            assert torch.allclose(y, y_shared), name
            torch.testing.assert_close(x_shared.grad, x.grad)
        whole = [module for module in alone.modules() if isinstance(module, Experts)]
        for mine, all_of_them in zip(experts, whole):
            for weight in mine.stacks():
                total = getattr(all_of_them, weight).grad
                total = torch.zeros_like(getattr(all_of_them, weight)) if total is None else total
                distributed.all_reduce(total)
                own = total[mesh_rank(mesh) :: size]
                assert torch.allclose(getattr(mine, weight).grad, own), f"{name}: {weight}"
        for (n, p), q in zip(alone.named_parameters(), shared.parameters()):
            if "experts" not in n:
                grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in (p, q)]
                assert torch.allclose(grads[0], grads[1]), f"{name}: {n}"


def mesh_rank(mesh: Any) -> int:
    return int(mesh["expert"].get_local_rank())


@pytest.mark.parametrize("size, chunks", [(2, 1), (2, 2), (4, 1), (4, 3)])
def test_blocks_compute_what_they_compute_alone(size: int, chunks: int) -> None:
    on_ranks(size, same_as_alone, size, chunks)


def in_two_replicas(rank: int) -> None:
    ranks = ExpertRanks(expert_mesh(2, "cpu"))
    assert ranks.local_experts(5) == list(range(rank % 2, 5, 2))
    alone, shared = block("stratified"), block("stratified")
    shard_experts(shared, ranks)
    x, padding = inputs(rank)
    assert torch.allclose(alone(x, padding)[0], shared(x, padding)[0])


def test_four_ranks_can_be_two_times_two() -> None:
    on_ranks(4, in_two_replicas)


def translate_at_own_pace(rank: int) -> None:
    """As in beam search: each rank calls the blocks as often as its sentences need, and serves the others afterwards."""
    ranks = ExpertRanks(expert_mesh(2, "cpu"))
    alone = nn.ModuleList([block("stratified"), block("vanilla")]).eval()
    shared = nn.ModuleList([block("stratified"), block("vanilla")]).eval()
    shard_experts(shared, ranks)
    with torch.no_grad():
        for step in range(0 if rank == 0 else 7):
            torch.manual_seed(10 * rank + step)
            x = torch.randn(step % 3, 2, D, dtype=torch.float64)
            chosen = [0, 1, 1][step % 3]
            assert torch.allclose(alone[chosen](x)[0], shared[chosen](x)[0])
        serve(ranks)
        serve(ranks)  # nobody has anything to send: over at once


def translate_out_of_step(rank: int) -> None:
    ranks = ExpertRanks(expert_mesh(2, "cpu"))
    blocks = nn.ModuleList([block("stratified"), block("vanilla")]).eval()
    shared = nn.ModuleList([block("stratified"), block("vanilla")]).eval()
    shard_experts(shared, ranks)
    with torch.no_grad():
        for number in itertools.islice(itertools.cycle([rank, 1 - rank, rank]), 3 + 4 * rank):
            x = torch.randn(3, D, dtype=torch.float64)
            assert torch.allclose(blocks[number](x)[0], shared[number](x)[0])
        serve(ranks)


def test_ranks_translate_at_their_own_pace() -> None:
    on_ranks(2, translate_at_own_pace)


def test_ranks_may_be_at_different_blocks_without_gradients() -> None:
    on_ranks(2, translate_out_of_step)


def at_different_blocks(rank: int) -> str:
    ranks = ExpertRanks(expert_mesh(2, "cpu"))
    blocks = nn.ModuleList([block("stratified"), block("vanilla")])
    shard_experts(blocks, ranks)
    with pytest.raises(RuntimeError) as raised:
        blocks[rank](torch.randn(3, D, dtype=torch.float64))
    return str(raised.value)


def test_training_at_different_blocks_is_said() -> None:
    for message in on_ranks(2, at_different_blocks):
        assert "different blocks" in message


def load_and_gather(rank: int) -> None:
    ranks = ExpertRanks(expert_mesh(2, "cpu"))
    whole = block("vanilla")
    torch.manual_seed(rank)
    shared: Any = MoE(D, F, 5).double()
    shard_experts(shared, ranks)
    shared.load_state_dict(whole.state_dict())
    assert torch.equal(shared.experts.w_in, whole.experts.w_in[rank::2])
    shared.load_state_dict(shared.state_dict())
    assert torch.equal(shared.experts.w_out, whole.experts.w_out[rank::2])
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(shared)


def test_a_rank_takes_its_own_of_a_whole_blocks_weights() -> None:
    on_ranks(2, load_and_gather)


def too_many_ranks(rank: int) -> str:
    with pytest.raises(ValueError) as raised:
        shard(Experts(1, D, F), ExpertRanks(expert_mesh(2, "cpu")))
    return str(raised.value)


def test_fewer_experts_than_ranks_are_refused() -> None:
    assert "1 experts cannot be spread over 2 ranks" in on_ranks(2, too_many_ranks)[0]


def no_multiple(rank: int) -> str:
    with pytest.raises(ValueError) as raised:
        expert_mesh(2, "cpu")
    return str(raised.value)


def test_ranks_must_be_a_multiple() -> None:
    assert "3 ranks are no multiple of 2" in on_ranks(3, no_multiple)[0]


def test_expert_major_order() -> None:
    rows_RL = torch.tensor([[2, 0, 1], [1, 3, 0]])
    owner = torch.tensor([0, 0, 2, 0, 1, 1, 1])
    order = expert_major(rows_RL)
    assert owner[order].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert order.tolist() == [0, 1, 3, 4, 5, 6, 2]


def test_every_stratum_is_spread_over_all_ranks() -> None:
    for first in (0, 4, 8, 12):
        visible = [len([e for e in range(rank, 16, 4) if e >= first]) for rank in range(4)]
        assert len(set(visible)) == 1
        assert [len(seen) for seen in Route(4, first, 1, _visible(first)).visible] == visible


def _visible(first: int) -> tuple[range, ...]:
    class Four:
        size = 4

    return Route.of(Four(), 16, first, 1).visible  # type: ignore[arg-type]
