"""Settings of a model as a system reads them, without fairseq."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from smoe_mt.moe import SYSTEMS

SHARED: dict[str, Any] = {
    "top_k": 2,
    "capacity_factor": None,
    "variant": "paper",
    "dropout": 0.0,
    "activation_fn": "relu",
    "moe_backend": "loop",
    "eom_p": None,
    "second_choice": "argmax",
    "moe_debug": False,
    "gate_bias": False,
}


def settings_of(name: str, **changed: Any) -> SimpleNamespace:
    """The defaults of a system's settings, with some of them changed."""
    options = SYSTEMS[name].options
    own = {} if options is None else {each.name: each.default for each in fields(options)}
    return SimpleNamespace(**{**SHARED, **own, **changed})
