"""Switch (paper: section 4): the vanilla layer with one choice."""

from __future__ import annotations

from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE


def _build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    """In the released code's variant its capacity factor is 1."""
    settings = common_settings(cfg, place)
    if cfg.capacity_factor is None and cfg.variant == "release":
        settings["capacity_factor"] = 1.0
    return MoE(num_experts=place.num_experts, **{**settings, "top_k": 1})


SYSTEM = System(
    name="switch",
    title="mixture of experts, top-1 (Switch)",
    build=_build,
    rows_per_token=lambda cfg, groups: (1,),
    row_name=lambda cfg: "switch",
    ignores=("top_k",),
    rows_vary=False,
)
