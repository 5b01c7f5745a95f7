"""Routing made up for tests."""

from __future__ import annotations

import torch

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.entropy import GateEntropy
from smoe_mt.analysis.load import ExpertLoad
from smoe_mt.analysis.units import UnitMeans
from smoe_mt.analysis.visits import VisitCounts
from smoe_mt.moe import GateLoad, Routing
from smoe_mt.moe.names import Block

BLOCKS = (Block("encoder", 2), Block("decoder", 2))


def routing(visits: list[list[int]], asked: tuple[list[int], ...] = ([1, 3], [2])) -> Routing:
    zero = torch.zeros(())
    gates = tuple(GateLoad(torch.tensor(gate), torch.tensor(gate), torch.tensor(gate)) for gate in asked)
    return Routing({"balance": zero}, torch.tensor(visits), gates, (zero,) * len(asked))


def report(encoder: dict[str, list[list[int]]], decoder: dict[str, list[list[int]]], strata: int = 2) -> CapacityReport:
    """A report of a model with one block a side, from the visits [B, T] of each direction."""
    visits, load, entropy = VisitCounts(BLOCKS, strata), ExpertLoad(dict.fromkeys(BLOCKS, (1, 1))), GateEntropy(BLOCKS)
    units = UnitMeans(BLOCKS)
    for direction, visited in encoder.items():
        routings = (routing(visited), routing(decoder[direction]))
        visits.add(direction, routings)
        load.add(direction, routings)
        entropy.add(direction, routings)
        units.add(direction, routings)
    return CapacityReport(visits, load, entropy, units, {"name": "fake", "model": "SMoE-1-1", "split": "test"})


VARIED = {"nso-en": [[1, 2, 2], [2, 0, 0]], "en-nso": [[1, 1, 1, 2]]}
ALIKE = {"nso-en": [[2, 2], [2, 0]], "en-nso": [[2, 2]]}
