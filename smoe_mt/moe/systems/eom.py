"""MoE with expert output masking (paper: section 4): the vanilla layer, its experts' outputs masked in training."""

from __future__ import annotations

from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE

DEFAULT_P = 0.1


def _build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    return MoE(num_experts=place.num_experts, **common_settings(cfg, place, eom_p=DEFAULT_P))


SYSTEM = System(
    name="eom",
    title="mixture of experts with expert output masking",
    build=_build,
    rows_per_token=lambda cfg, groups: (cfg.top_k,),
    row_name=lambda cfg: "eom",
    rows_vary=False,
    defaults={"eom_p": DEFAULT_P},
)
