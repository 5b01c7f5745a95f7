"""Which experts of each block are merged, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.analysis.load import ExpertLoad
from smoe_mt.pruning.expert_inputs import ExpertInputs
from smoe_mt.pruning.groups import Groups, most_used, partition, random_partition, shares
from smoe_mt.pruning.layout import Layout
from smoe_mt.pruning.similarity import MEASURES

OUTPUTS, COUNTS, RANDOM = "outputs", "counts", "random"


@dataclass(frozen=True)
class Rule:
    """`by`: a name of MEASURES, "counts" or "random"; `merge`: one of `arguments.MERGES`; `seed`: of random groups."""

    by: str
    merge: str
    seed: int


@dataclass(frozen=True)
class SetPlan:
    """Of one set of experts: a stratum, a layer, or all experts of a gate.

    groups      members of each expert that remains, numbered from 0 in the set
    alpha       share of each old expert in each new one, [new, old]
    counts      slots that each expert served, over all gates that see it
    similarity  [old, old]; None where the rule asks for none
    tokens      on which outputs were compared
    """

    layout: Layout
    number: int
    groups: Groups
    alpha: Tensor
    counts: Tensor
    similarity: Tensor | None
    tokens: int

    @property
    def dropped(self) -> tuple[int, ...]:
        """Experts of no group."""
        members = {e for group in self.groups for e in group}
        return tuple(e for e in range(self.counts.numel()) if e not in members)


@torch.no_grad()
def make_plan(
    layouts: Sequence[Layout],
    sizes: Sequence[Sequence[int]],
    rule: Rule,
    load: ExpertLoad,
    inputs: ExpertInputs,
) -> list[list[SetPlan]]:
    """A plan for each set of each block. `sizes`: the experts that remain."""
    generator = torch.Generator().manual_seed(rule.seed)
    return [
        [_plan_of(layout, number, want, rule, load, inputs, generator) for number, want in enumerate(wanted)]
        for layout, wanted in zip(layouts, sizes, strict=True)
    ]


def _plan_of(
    layout: Layout,
    number: int,
    want: int,
    rule: Rule,
    load: ExpertLoad,
    inputs: ExpertInputs,
    generator: torch.Generator,
) -> SetPlan:
    bank, experts = layout.bank(number)
    counts = served(load, layout)[number]
    tokens = inputs.of(layout, number)
    similarity = None
    if rule.by == COUNTS:
        groups = most_used(counts, want)
    elif rule.by == RANDOM:
        groups = random_partition(len(experts), want, generator)
    else:
        similarity = MEASURES[rule.by](bank, experts, tokens)
        groups = partition(similarity, want)
    alpha = shares(groups, counts, rule.merge)
    return SetPlan(layout, number, groups, alpha, counts, similarity, tokens.size(0))


def served(load: ExpertLoad, layout: Layout) -> list[Tensor]:
    """Slots that each expert of each set served, over all directions and all gates that see it; int64 [experts] each.

    In evaluation nothing is dropped: an expert serves what it is asked for.
    """
    counts = [torch.zeros(size, dtype=torch.long) for size in layout.sizes]
    for blocks in load.asked.values():
        for gate, asked in enumerate(blocks[layout.block]):
            seen = layout.sizes[gate:] if layout.nested else layout.sizes[gate : gate + 1]
            for number, part in enumerate(asked.cpu().split(list(seen)), start=gate):
                counts[number] += part
    return counts
