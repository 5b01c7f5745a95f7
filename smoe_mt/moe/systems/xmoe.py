"""XMoE (Yang et al. 2024, arXiv 2403.18926): many narrow experts, of which a token takes as many as it needs.

A token takes the most probable experts until their probabilities sum to a threshold t; their outputs are weighted by these
probabilities as they are: y = sum_e p_e FFN_e(x). An expert is an FFN of the layer's hidden units over ``xmoe_split``. Under a
capacity, all first choices are served before all second ones, and among the k-th choices the larger probability first. t = 0 is
Switch, t = 1 the weighted sum of all experts. ``routing_override`` tries another threshold in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smoe_mt.moe.experts.ffn import Experts
from smoe_mt.moe.routers.base import Weighting
from smoe_mt.moe.routers.threshold import Threshold
from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE


@dataclass(frozen=True)
class XMoEOptions:
    """Settings of the model that this system alone has."""

    xmoe_threshold: float = field(
        default=0.9,
        metadata={
            "help": "xmoe: a token takes experts until their probabilities sum to this (paper: 0.9)",
            "range": (0, 1),
        },
    )
    xmoe_split: int = field(
        default=2,
        metadata={"help": "xmoe: an expert has the layer's hidden units divided by this", "range": (1, 65_536)},
    )
    xmoe_most: int = field(
        default=0, metadata={"help": "xmoe: largest number of experts of a token; 0: no limit", "range": (0, 65_536)}
    )


def build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    """A plain layer with another selection and weighting, and narrower experts.

    Raises:
        ValueError: a split that does not divide the hidden units, or a threshold outside [0, 1].
    """
    if cfg.xmoe_split < 1 or place.ffn_dim % cfg.xmoe_split:
        raise ValueError(f"xmoe_split={cfg.xmoe_split} does not divide the {place.ffn_dim} hidden units of an FFN")
    if cfg.xmoe_most < 0:
        raise ValueError(f"xmoe_most must be 0 (no limit) or positive, not {cfg.xmoe_most}")
    settings: dict[str, Any] = common_settings(cfg, place)
    ffn_dim = place.ffn_dim // cfg.xmoe_split
    return MoE(
        num_experts=place.num_experts,
        **settings,
        selection=selection(cfg),
        weighting=Weighting.RAW,
        experts=Experts(place.num_experts, place.embed_dim, ffn_dim, cfg.activation_fn),
    )


def selection(cfg: ModelSettings) -> Threshold:
    """Raises ValueError for a threshold outside [0, 1]."""
    return Threshold(cfg.xmoe_threshold, cfg.xmoe_most or None)


SYSTEM = System(
    name="xmoe",
    title="mixture of narrow experts with threshold routing (XMoE)",
    build=build,
    rows_per_token=lambda cfg, groups: (selection(cfg).expected_choices(sum(groups)),),
    row_name=lambda cfg: "xmoe",
    options=XMoEOptions,
    ignores=("top_k", "second_choice"),
)
