"""The settings of a model that decide what it computes from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from smoe_mt.models.config import SharedSettings
from smoe_mt.moe import SYSTEMS, System
from smoe_mt.moe.registry import DENSE

#: Shared settings of blocks that their outputs in evaluation depend on.
SHARED = ("top_k", "variant", "second_choice", "eom_p", "gate_bias")
DEFAULTS = {each.name: each.default for each in fields(SharedSettings)} | {"eom_p": 0.0}


def settings_of_blocks(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the settings that describe the blocks of such a model; none for a dense one. UserError for an unknown system."""
    if str(model.get("moe")) == DENSE:
        return ()
    system = SYSTEMS[str(model.get("moe"))]
    shared = [name for name in SHARED if name not in system.ignores]
    return (system.experts_setting, *shared, *(each.name for each in _options(system)))


def meaning(model: Mapping[str, Any]) -> dict[str, str]:
    """What the outputs of a model in evaluation depend on besides its weights, as text that can be compared: with defaults in
    the place of what is unset or was not known yet. UserError for an unknown system."""
    found = {name: str(model.get(name, DEFAULTS[name])) for name in ("moe", "activation_fn")}
    if found["moe"] == DENSE:
        return found
    system = SYSTEMS[found["moe"]]
    defaults = DEFAULTS | dict(system.defaults) | {each.name: each.default for each in _options(system)}
    trained_only = {each.name for each in _options(system) if each.metadata.get("training_only")}
    for name in settings_of_blocks(model):
        if name not in trained_only:
            value = model.get(name)
            found[name] = str(defaults[name] if value is None else value)
    return {
        name: value.strip("[]()").replace(" ", "") for name, value in found.items()
    }  # of lists, given as text or not


def _options(system: System) -> tuple[Any, ...]:
    return () if system.options is None else fields(system.options)
