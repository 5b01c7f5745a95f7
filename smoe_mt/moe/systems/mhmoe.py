"""MH-MoE (Wu et al. 2024, arXiv 2404.15045; Huang et al. 2024, arXiv 2411.16205): the parts of a token are routed on their own.

A token is projected and cut into h sub-tokens of width D/h. Each goes to its own experts, as a token of a plain block does (2404.15045,
eq. 1-6). What comes out is put together and projected again:

    [s_1 ... s_h] = W_head x + b_head,   o_j = MoE(s_j) (+ s_j),   y = W_merge [o_1 ... o_h] + b_merge

``stratified_mhmoe``: the sub-tokens walk through strata, each on its own way; gates, norms and residuals have width D/h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from smoe_mt.moe.block import MoEBlock, Routing, zero_at_padding
from smoe_mt.moe.equal_cost import equal_cost
from smoe_mt.moe.experts.ffn import Experts
from smoe_mt.moe.routers.base import Weighting
from smoe_mt.moe.strata import expected_visits
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.stratified import StratifiedMoE
from smoe_mt.moe.systems.vanilla import MoE


class MultiHeadMoE(MoEBlock):
    """Projections around a block for sub-tokens; norm, dropout and residual around it belong to the transformer layer.

    embed_dim  D of the tokens
    heads      h, the sub-tokens of a token: neighbours for ``moe``, so that they are served in the order of the tokens
    moe        the block that they pass, of width D / h: ``MoE`` or ``StratifiedMoE``
    residual   add a sub-token to what ``moe`` makes of it (2404.15045, eq. 6); a stratified block does so by itself

    Routing: loads, losses and entropy of sub-tokens; visits and units of a token are the sums of those of its sub-tokens.

    Parameters: ``head``, ``merge`` (nn.Linear D -> D; Xavier uniform, the head's with gain 1/sqrt(2); biases 0), those of ``moe``.

    Raises:
        ValueError: heads that do not divide the embedding.
    """

    def __init__(self, embed_dim: int, heads: int, moe: MoEBlock, residual: bool = False) -> None:
        super().__init__()
        part(embed_dim, heads)
        self.heads = heads
        self.moe = moe
        self.residual = residual and not moe.has_residual
        self.head = nn.Linear(embed_dim, embed_dim)
        self.merge = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.head.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.merge.weight)
        for projection in (self.head, self.merge):
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        # In the precision of x: gates read at least what they read without projections.
        parts = self.head(zero_at_padding(x, padding_mask)).to(x.dtype).unflatten(-1, (self.heads, -1))
        mask = None if padding_mask is None else padding_mask.unsqueeze(-1).expand(parts.shape[:-1])
        out, routing = self.moe(parts, mask)
        if self.residual:
            out = out + parts
        y = zero_at_padding(self.merge(out.flatten(-2)).to(x.dtype), padding_mask)
        units = routing.units_of_visit
        if isinstance(units, Tensor):
            units = units.sum(dim=-1)
        return y, replace(routing, visits=routing.visits.sum(dim=-1), units_of_visit=units)


def part(embed_dim: int, heads: int) -> int:
    """D / h, the width of a sub-token.

    Raises:
        ValueError: heads that do not divide the embedding.
    """
    if heads < 1 or embed_dim % heads:
        raise ValueError(f"mhmoe_heads={heads} does not divide the embedding dimension {embed_dim}: choose a divisor")
    return embed_dim // heads


@dataclass(frozen=True)
class MultiHeadOptions:
    """Settings of the model that these systems alone have."""

    mhmoe_heads: int = field(
        default=2, metadata={"help": "mhmoe: parts of a token that are routed on their own", "range": (1, 65_536)}
    )
    mhmoe_parity: Literal["none", "flops"] = field(
        default="none",
        metadata={
            "help": "mhmoe: none: experts as many and as wide as the settings say; flops: width and number are chosen so that "
            "FLOPs and parameters are those of the plain block with these settings, within 1%"
        },
    )
    mhmoe_residual: bool = field(
        default=False, metadata={"help": "mhmoe: add a sub-token to its experts' output; with strata it always is"}
    )
    mhmoe_weights: Literal["renormalised", "raw"] = field(
        default="renormalised",
        metadata={"help": "mhmoe: weights of several experts: over their sum, or the gate's probabilities as they are"},
    )


def resize(settings: Mapping[str, Any], place: BlockPlace, nested: bool = False) -> BlockPlace:
    """With ``mhmoe_parity=flops``, the experts that cost what those of ``place`` do.

    Raises:
        ValueError: heads that do not divide the embedding, or no such experts.
    """
    if str(settings.get("mhmoe_parity", "none")) == "none":
        return place
    heads = int(settings["mhmoe_heads"])
    part(place.embed_dim, heads)
    found = equal_cost(place.embed_dim, place.ffn_dim, place.groups, int(settings["top_k"]), heads, nested)
    return replace(place, groups=found.groups, units=found.ffn_dim)


def build(cfg: ModelSettings, place: BlockPlace) -> MultiHeadMoE:
    """A plain layer for sub-tokens between two projections.

    Raises:
        ValueError: heads that do not divide the embedding.
    """
    moe = MoE(num_experts=place.num_experts, **_settings(cfg, place))
    return MultiHeadMoE(place.embed_dim, cfg.mhmoe_heads, moe, cfg.mhmoe_residual)


def build_stratified(cfg: ModelSettings, place: BlockPlace) -> MultiHeadMoE:
    """Strata for sub-tokens between two projections. Dropout is on the merged output alone, not at each visit as well.

    Raises:
        ValueError: heads that do not divide the embedding.
    """
    settings = _settings(cfg, place)
    settings["dropout"] = cfg.dropout if cfg.variant == "release" else 0.0
    return MultiHeadMoE(place.embed_dim, cfg.mhmoe_heads, StratifiedMoE(strata=place.strata, **settings))


def _settings(cfg: ModelSettings, place: BlockPlace) -> dict[str, Any]:
    """Of the block of width D / h."""
    width = part(place.embed_dim, cfg.mhmoe_heads)
    experts = Experts(sum(place.groups), width, place.units or place.ffn_dim, cfg.activation_fn)
    weighting = Weighting.RAW if str(cfg.mhmoe_weights) == "raw" else None
    return {**common_settings(cfg, place), "embed_dim": width, "experts": experts, "weighting": weighting}


def _projections(cfg: ModelSettings, place: BlockPlace, rows: float) -> float:
    """4 D^2 FLOPs in FFNs of 4 D F."""
    return place.embed_dim / place.ffn_dim


SYSTEM = System(
    name="mhmoe",
    title="mixture of experts of sub-tokens (MH-MoE)",
    build=build,
    rows_per_token=lambda cfg, groups: (cfg.mhmoe_heads * cfg.top_k,),
    row_name=lambda cfg: "mhmoe",
    options=MultiHeadOptions,
    dense_ffns=_projections,
    resize=resize,
    sub_tokens=lambda settings: int(settings["mhmoe_heads"]),
    rows_vary=False,
)

STRATIFIED = System(
    name="stratified_mhmoe",
    title="stratified mixture of experts of sub-tokens (MH-MoE in strata)",
    build=build_stratified,
    rows_per_token=lambda cfg, strata: (cfg.mhmoe_heads * cfg.top_k * expected_visits(strata),),
    row_name=lambda cfg: "stratified_mhmoe",
    figure_title=lambda strata: "MH-SMoE-" + "-".join(map(str, strata)),
    options=MultiHeadOptions,
    dense_ffns=_projections,
    resize=partial(resize, nested=True),
    sub_tokens=lambda settings: int(settings["mhmoe_heads"]),
    experts_setting=STRATA,
    nested=True,
)
