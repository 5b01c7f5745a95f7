"""Blocks in float64 that tests prune by themselves, without a model around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, MoEBlock, Router, StratifiedMoE
from smoe_mt.moe.names import Block
from smoe_mt.pruning.groups import Groups
from smoe_mt.pruning.layout import Layout
from smoe_mt.pruning.merging import group_biases, merged_state
from tests.moe.settings import settings_of

D, F = 6, 8
BLOCK = Block("encoder", 2)
PREFIX = f"{BLOCK}.block."


def plain(experts: int, **settings: Any) -> Any:
    """A plain layer with gates that send tokens different ways."""
    return _ready(MoE(D, F, experts, capacity_factor=0.0, **settings))


def stratified(*strata: int, **settings: Any) -> Any:
    return _ready(StratifiedMoE(D, F, strata, capacity_factor=0.0, **settings))


def of_system(name: str, groups: tuple[int, ...], seed: int = 0, **settings: Any) -> Any:
    cfg = settings_of(name, capacity_factor=0.0, **settings)
    return _ready(SYSTEMS[name].build(cfg, BlockPlace("encoder", 2, D, F, groups)), seed)


def _ready(block: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block.double().eval().requires_grad_(False)


def tokens(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def layout_of(block: MoEBlock, name: str, sizes: tuple[int, ...]) -> Layout:
    return Layout.of(block, BLOCK, sizes, SYSTEMS[name])


def pruned(
    block: Any, smaller: Any, layout: Layout, shares: Sequence[Tensor], groups: Sequence[Groups] | None = None
) -> Any:
    """`smaller` with the merged experts of `block`; `groups`: its gates have biases."""
    state = {PREFIX + name: weight for name, weight in block.state_dict().items()}
    merged = merged_state(state, [layout], [shares])
    if groups is not None:
        merged |= group_biases(state, [layout], [groups])
    smaller.load_state_dict({name.removeprefix(PREFIX): weight for name, weight in merged.items()})
    return smaller


def make_equal(block: Any, gates: Sequence[Router], one: int, other: int, firsts: Sequence[int] = (0,)) -> None:
    """Expert `other` becomes expert `one`, with its row in each gate that sees both."""
    for stack in block.experts.stacks().values():
        stack[other] = stack[one]
    for gate, first in zip(gates, firsts):
        if first <= min(one, other):
            rows: Any = gate.weight
            rows[other - first] = rows[one - first]
