"""The engine: routing, dispatch, experts and strata. Knows torch and nothing of fairseq.

Shape letters used in all modules of this package, as suffixes of tensor names:

    N  positions in the input (batch x length, padding included)
    T  tokens at hand (padding excluded; inside a stratum, those that stand at it)
    D  model (embedding) dimension            F  hidden dimension of an expert's FFN
    E  experts that a gate sees               K  choices of a token (1 or 2)
    S  slots: (token, choice) pairs served by an expert, sorted by expert
    L  strata of a block
"""

from smoe_mt.moe.compiling import keep_blocks_out_of_graphs
from smoe_mt.moe.conditional import ConditionalMoE
from smoe_mt.moe.layer import MoE
from smoe_mt.moe.routing import GateLoad, Routing
from smoe_mt.moe.stacking import Stacking
from smoe_mt.moe.strata import parse_strata
from smoe_mt.moe.stratified import StratifiedMoE

__all__ = [
    "ConditionalMoE",
    "GateLoad",
    "MoE",
    "Routing",
    "Stacking",
    "StratifiedMoE",
    "keep_blocks_out_of_graphs",
    "parse_strata",
]
