"""DynMoE (Guo et al. 2024, arXiv 2405.14297): a token takes any number of experts, and experts leave and join during training.

The gate is ``routers/top_any.py``. ``num_experts`` or ``strata`` say how many experts there are room for; how many of them are
active changes, shapes do not. ``stratified_dynmoe`` is an SMoE block with such gates: a token that chooses nobody passes its
stratum unchanged, and each gate has active experts of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smoe_mt.moe.routers.base import MakeRouter
from smoe_mt.moe.routers.top_any import Adaptation, TopAnyGate
from smoe_mt.moe.strata import expected_sum
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.stratified import StratifiedMoE
from smoe_mt.moe.systems.vanilla import MoE

#: Of the losses on the gates besides the balance loss (released code: 0.01 for all).
LOSS_WEIGHTS = {"diversity": 0.01, "simplicity": 0.01, "efficiency": 0.01}


@dataclass(frozen=True)
class DynMoEOptions:
    """Settings of the model that these systems alone have."""

    dynmoe_start: int = field(
        default=0,
        metadata={
            "help": "dynmoe: experts of a block (stratified: of each stratum) that are active at the start; 0: all",
            "range": (0, 65_536),
            "training_only": True,
        },
    )
    dynmoe_adapt_every: int = field(
        default=900,
        metadata={
            "help": "dynmoe: experts leave and join after so many updates, again and again; 0: never",
            "range": (0, 1_000_000_000),
            "training_only": True,
        },
    )
    dynmoe_adapt_window: int = field(
        default=300,
        metadata={
            "help": "dynmoe: updates before, whose tokens decide which experts leave and whether one joins",
            "range": (1, 1_000_000_000),
            "training_only": True,
        },
    )
    dynmoe_adapt_until: int = field(
        default=0,
        metadata={
            "help": "dynmoe: updates after which nobody leaves or joins any more; 0: no end",
            "range": (0, 1_000_000_000),
            "training_only": True,
        },
    )
    dynmoe_scale: float = field(
        default=1.0,
        metadata={
            "help": "dynmoe: factor of cosines and thresholds before the sigmoid",
            "range": (0, 100, True, False),
        },
    )
    dynmoe_learn_scale: bool = field(
        default=False, metadata={"help": "dynmoe: the factor is learned, from dynmoe_scale on; at most 100"}
    )
    dynmoe_extra_losses: bool = field(
        default=False,
        metadata={"help": "dynmoe: the balance and efficiency losses of the released code", "training_only": True},
    )


def build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    """A plain layer with another gate.

    Raises:
        ValueError: settings that make no sense, each named.
    """
    return MoE(num_experts=place.num_experts, **_settings(cfg, place))


def build_stratified(cfg: ModelSettings, place: BlockPlace) -> StratifiedMoE:
    """A stratified block with other gates.

    Raises:
        ValueError: settings that make no sense, each named.
    """
    return StratifiedMoE(strata=place.strata, **_settings(cfg, place))


def _settings(cfg: ModelSettings, place: BlockPlace) -> dict[str, Any]:
    """Nothing is dropped unless ``capacity_factor`` is set."""
    settings = common_settings(cfg, place)
    if cfg.capacity_factor is None:
        settings["capacity_factor"] = 0.0
    return settings | {"router": _router(cfg, place)}


def _router(cfg: ModelSettings, place: BlockPlace) -> MakeRouter:
    # A gate sees the last groups, and all gates see different numbers of experts.
    seen = {sum(place.groups[i:]): place.groups[i:] for i in range(len(place.groups))}

    def make(visible: int) -> TopAnyGate:
        return TopAnyGate(
            place.embed_dim,
            seen[visible],
            start=cfg.dynmoe_start,
            adaptation=Adaptation(cfg.dynmoe_adapt_every, cfg.dynmoe_adapt_window, cfg.dynmoe_adapt_until),
            scale=cfg.dynmoe_scale,
            learn_scale=cfg.dynmoe_learn_scale,
            extra=cfg.dynmoe_extra_losses,
        )

    return make


def expected_rows(cfg: ModelSettings, groups: tuple[int, ...]) -> tuple[float, ...]:
    """At the start: half of the active experts, and the best one for a token that chooses nobody."""
    active = [min(cfg.dynmoe_start or size, size) for size in groups]
    return (expected_sum(active, lambda visible: visible / 2 + 0.5**visible),)


SYSTEM = System(
    name="dynmoe",
    title="mixture of any number of experts, which leave and join (DynMoE)",
    build=build,
    rows_per_token=expected_rows,
    row_name=lambda cfg: "dynmoe",
    options=DynMoEOptions,
    loss_weights=LOSS_WEIGHTS,
    ignores=("top_k", "second_choice"),
)

STRATIFIED = System(
    name="stratified_dynmoe",
    title="stratified mixture of any number of experts, which leave and join (DynMoE in strata)",
    build=build_stratified,
    rows_per_token=expected_rows,
    row_name=lambda cfg: "stratified_dynmoe",
    figure_title=lambda strata: "DynMoE-" + "-".join(map(str, strata)),
    options=DynMoEOptions,
    loss_weights=LOSS_WEIGHTS,
    experts_setting=STRATA,
    nested=True,
    ignores=("top_k", "second_choice"),
)
