"""The experts of every block of a model, by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.moe.names import SIDES
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.systems import SYSTEMS

#: By side, of each block, the first one first: the experts of each stratum or layer of it, or of its one gate.
Groups = dict[str, tuple[tuple[int, ...], ...]]


def groups_by_side(settings: Mapping[str, Any]) -> Groups:
    """Of a model with these settings; no blocks for a dense one.

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
    return {"encoder": groups[: blocks["encoder"]], "decoder": groups[blocks["encoder"] :]}
