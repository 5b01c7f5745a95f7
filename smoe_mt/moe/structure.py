"""The experts of every block of a model, by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.moe.names import SIDES
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.system import BlockPlace
from smoe_mt.moe.systems import SYSTEMS

#: By side, of each block, the first one first: the experts of each stratum or layer of it, or of its one gate.
Groups = dict[str, tuple[tuple[int, ...], ...]]


def groups_by_side(settings: Mapping[str, Any]) -> Groups:
    """Of a model with these settings, as ``places_by_side``."""
    return {side: tuple(place.groups for place in places) for side, places in places_by_side(settings).items()}


def places_by_side(settings: Mapping[str, Any]) -> dict[str, tuple[BlockPlace, ...]]:
    """By side, where each block of a model with these settings stands, the first one first; no blocks for a dense one.

    Raises:
        UserError: an unknown system, or numbers of experts that make no sense.
    """
    if str(settings["moe"]) == DENSE:
        return {side: () for side in SIDES}
    system = SYSTEMS[str(settings["moe"])]
    blocks = {side: int(settings[f"{side}_layers"]) // int(settings["moe_freq"]) for side in SIDES}
    try:
        groups = system.groups(settings, sum(blocks.values()))
    except ValueError as error:
        raise UserError(f"--{system.experts_setting.replace('_', '-')}: {error}") from None
    found: dict[str, tuple[BlockPlace, ...]] = {}
    for side in SIDES:
        dim, ffn_dim = (int(settings[f"{side}_{name}"]) for name in ("embed_dim", "ffn_embed_dim"))
        mine, groups = groups[: blocks[side]], groups[blocks[side] :]
        layers = (int(settings["moe_freq"]) * number for number in range(1, blocks[side] + 1))
        found[side] = tuple(BlockPlace(side, layer, dim, ffn_dim, each) for layer, each in zip(layers, mine))
    if system.resize is None:
        return found
    try:
        return {side: tuple(system.resize(settings, place) for place in places) for side, places in found.items()}
    except ValueError as error:
        raise UserError(f"--moe {system.name}: {error}") from None
