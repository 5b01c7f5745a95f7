"""The paper's cost columns (section 5, tables of M4 and M15), by the names of `configs/model`."""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 10**6


@dataclass(frozen=True)
class Published:
    """What the paper prints for a row: parameters, and FLOPs of a token's way through encoder and decoder."""

    parameters: int
    flops_per_token: int


def _millions(table: dict[str, tuple[int, int]]) -> dict[str, Published]:
    return {row: Published(parameters * MILLION, flops * MILLION) for row, (parameters, flops) in table.items()}


COSTS: dict[str, dict[str, Published]] = {
    "m4": _millions(
        {
            "dense": (60, 167),
            "vanilla": (148, 192),
            "switch": (148, 167),
            "eom": (148, 192),
            "cmr": (161, 217),
            "stacking_2_4": (148, 242),
            "smoe_4_4": (148, 217),
            "stacking_4_2": (148, 327),
            "smoe_2_2_2_2": (148, 247),
        }
    ),
    "m15": _millions(
        {
            "dense": (209, 506),
            "vanilla": (963, 606),
            "switch": (963, 506),
            "eom": (963, 606),
            "cmr": (1010, 707),
            "smoe_4_12": (963, 656),
            "smoe_12_4": (963, 757),
            "smoe_8_8": (963, 707),
            "smoe_4_4_8": (963, 724),
            "smoe_8_4_4": (963, 805),
            "smoe_4_4_4_4": (963, 825),
            "vanilla_32": (1770, 606),
        }
    ),
}
