"""The hook by which routers change after an update: what it counts, once, over passes and ranks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.local_ranks import on_ranks
from smoe_mt.moe import Gate, MoE, StratifiedMoE, TopK, Weighting, after_update, keep_blocks_out_of_graphs
from smoe_mt.moe.kernels.fused import BlockParts, kernel_name
from smoe_mt.moe.routers import forget_passes
from smoe_mt.moe.routers.base import Choices

D, F, E = 8, 16, 4


class Counting(Gate):
    """Counts choices and adds up tokens; remembers what it was told."""

    asked: Tensor
    total: Tensor
    told: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__(D, experts, TopK(2), Weighting.RENORMALISED)
        self.add_statistic("asked", torch.zeros(experts, dtype=torch.long))
        self.add_statistic("total", torch.zeros(D))
        self.register_buffer("told", torch.zeros(experts))
        self.updates = 0

    def observe(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, asked_E: Tensor, active_T: Tensor | None
    ) -> None:
        assert not torch.is_grad_enabled()
        self.asked += asked_E
        self.total += (x_TD if active_T is None else x_TD * active_T[:, None]).sum(dim=0)

    def after_update(self) -> None:
        self.updates += 1
        self.told.copy_(self.asked)


def block(backend: str = "loop", **settings: Any) -> MoE:
    torch.manual_seed(0)
    made = MoE(D, F, E, backend=backend, capacity_factor=0.5, router=Counting, **settings)
    return made.train()


def router(made: nn.Module) -> Counting:
    (found,) = (module for module in made.modules() if isinstance(module, Counting))
    return found


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_passes_of_an_update_are_added_up_without_padding(backend: str) -> None:
    made, x = block(backend), tokens(3, 5)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 3:] = True
    asked = made(x)[1].load[0].asked + made(x, mask)[1].load[0].asked
    assert asked.sum() == 2 * (15 + 9)  # choices, also those that a capacity drops
    torch.testing.assert_close(router(made).total, x.sum(dim=(0, 1)) + x[:, :3].sum(dim=(0, 1)))
    after_update(made)
    assert router(made).told.equal(asked.float()) and router(made).updates == 1
    assert not router(made).asked.any() and not router(made).total.any()


def test_evaluation_counts_for_nothing() -> None:
    made = block().eval()
    made(tokens(3, 5))
    assert not router(made).asked.any()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_pass_that_is_computed_again_counts_once(reentrant: bool) -> None:
    made, x = block(), tokens(3, 5).requires_grad_()
    y, routing = checkpoint(made, x, None, use_reentrant=reentrant)
    y.sum().backward()
    assert router(made).asked.equal(routing.load[0].asked)


def test_forgotten_passes_count_for_nothing() -> None:
    made = block()
    made(tokens(3, 5))
    forget_passes(made)
    assert not any(statistic.any() for statistic in router(made).statistics())


def test_each_gate_of_a_stratified_block_counts_its_own_tokens() -> None:
    torch.manual_seed(0)
    made = StratifiedMoE(D, F, (3, 4), backend="loop", router=Counting).train()
    _, routing = made(tokens(4, 5))
    for gate, load in zip(made.gates, routing.load, strict=True):
        assert isinstance(gate, Counting) and gate.asked.equal(load.asked)


def test_statistics_are_in_no_checkpoint_and_state_is() -> None:
    assert {"gate.told"} == {name for name in block().state_dict() if name.startswith("gate.")} - {"gate.weight"}


def test_buffers_keep_their_precision_in_a_model_of_half_precision() -> None:
    made = block()
    router(made).told.fill_(1.001)
    assert router(made.bfloat16()).weight.dtype is torch.bfloat16
    assert router(made).told.equal(torch.full((E,), 1.001)) and router(made).total.dtype is torch.float32
    assert router(made.double()).told.dtype is torch.double


def test_a_copy_counts_for_itself() -> None:
    made = block()
    made(tokens(3, 5))
    copied = copy.deepcopy(made)
    copied(tokens(3, 5))
    assert router(copied).asked.sum() == 2 * router(made).asked.sum() > 0


def test_a_block_in_a_compiled_model_counts_too() -> None:
    made = block()
    torch.compile(keep_blocks_out_of_graphs(nn.Sequential(nn.Linear(D, D), made)), backend="eager")(tokens(3, 5))
    assert router(made).asked.sum() == 2 * 15


def test_no_kernel_for_whole_blocks_takes_a_router_that_counts() -> None:
    made = block("triton")
    parts = BlockParts(made.experts, [made.gate], (0,), made.settings, made.mask)
    assert kernel_name(parts, tokens(3), "triton") == "loop"


def sums_over_ranks(rank: int) -> None:
    made = block()
    for number in range(2 + rank):  # ranks need not have as many passes
        made(tokens(3, 5, seed=10 * rank + number))
    everything = [tokens(3, 5, seed=seed) for seed in (0, 1, 10, 11, 12)]
    after_update(made, torch.distributed.group.WORLD)
    alone = block()
    for x in everything:
        alone(x)
    after_update(alone)
    assert router(made).told.equal(router(alone).told)


def test_ranks_add_up_what_they_counted() -> None:
    on_ranks(2, sums_over_ranks)
