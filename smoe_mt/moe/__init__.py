"""The engine: routing, dispatch, experts and strata. Knows torch and nothing of fairseq.

The maths is in this folder, ``routers/``, ``experts/`` and ``systems/``; how it is computed on which hardware in ``kernels/``,
on which rank in ``distributed/``.

Shape letters used in all modules of this package, as suffixes of tensor names:

    N  positions in the input (batch x length, padding included)
    T  tokens at hand (padding excluded; inside a stratum, those that stand at it)
    D  model (embedding) dimension            F  hidden dimension of an expert's FFN
    E  experts that a gate sees               K  choices of a token
    S  slots: (token, choice) pairs served by an expert, sorted by expert
    L  strata of a block
"""

from smoe_mt.moe.block import GateLoad, MoEBlock, Routing
from smoe_mt.moe.experts import ExpertBank, Experts, FFNBank
from smoe_mt.moe.routers import (
    BiasedStrata,
    ForcedVisits,
    Gate,
    MostVisits,
    RankK,
    Router,
    Selection,
    Threshold,
    TopK,
    Weighting,
    after_update,
    routing_override,
)
from smoe_mt.moe.routers.bias import LoadBias
from smoe_mt.moe.shared import SharedExperts
from smoe_mt.moe.strata import parse_strata
from smoe_mt.moe.system import BlockPlace, ModelLoss, System, common_settings
from smoe_mt.moe.systems import SYSTEMS, register_system
from smoe_mt.moe.systems.cmr import ConditionalMoE
from smoe_mt.moe.systems.stacking import Stacking
from smoe_mt.moe.systems.stratified import StratifiedMoE
from smoe_mt.moe.systems.vanilla import MoE
from smoe_mt.moe.torch_compile import keep_blocks_out_of_graphs

__all__ = [
    "SYSTEMS",
    "BiasedStrata",
    "BlockPlace",
    "ConditionalMoE",
    "ExpertBank",
    "Experts",
    "FFNBank",
    "ForcedVisits",
    "Gate",
    "GateLoad",
    "LoadBias",
    "MoE",
    "MoEBlock",
    "ModelLoss",
    "MostVisits",
    "RankK",
    "Router",
    "Routing",
    "Selection",
    "SharedExperts",
    "Stacking",
    "StratifiedMoE",
    "System",
    "Threshold",
    "TopK",
    "Weighting",
    "after_update",
    "common_settings",
    "keep_blocks_out_of_graphs",
    "parse_strata",
    "register_system",
    "routing_override",
]
