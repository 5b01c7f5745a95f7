"""Translation: a checkpoint in, one object out that turns raw sentences into raw sentences.

Names are fetched when they are first asked for: the command line reads its arguments without torch or fairseq.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from smoe_mt.lean_fairseq import import_fairseq

if TYPE_CHECKING:
    from smoe_mt.generation.checkpoint import LoadedModel, load_model
    from smoe_mt.generation.details import Candidate, Translation, Visits
    from smoe_mt.generation.routing_options import RoutingOptions
    from smoe_mt.generation.texts import Text
    from smoe_mt.generation.translator import Translator
    from smoe_mt.search.beam import Decoding

__all__ = [
    "Candidate",
    "Decoding",
    "LoadedModel",
    "RoutingOptions",
    "Text",
    "Translation",
    "Translator",
    "Visits",
    "load_model",
]

_HOMES = {
    "smoe_mt.generation.checkpoint": ("LoadedModel", "load_model"),
    "smoe_mt.generation.details": ("Candidate", "Translation", "Visits"),
    "smoe_mt.generation.routing_options": ("RoutingOptions",),
    "smoe_mt.generation.texts": ("Text",),
    "smoe_mt.generation.translator": ("Translator",),
    "smoe_mt.search.beam": ("Decoding",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            import_fairseq()
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
