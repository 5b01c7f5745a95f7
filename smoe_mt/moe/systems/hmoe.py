"""HMoE (Wang et al. 2024, arXiv 2408.10681): experts of different sizes, alone or as the experts of an SMoE's strata.

Expert e has h_e hidden units; the gate is a softmax. A token takes its ``top_k`` best experts, or the best ones until their
probabilities sum to a threshold (top-p), with renormalised weights. The penalty E sum_e M_e P_e, M_e being the mean over tokens
of 1{e active} h_e, makes small experts the common ones and leaves the large ones to hard tokens. It replaces the balance loss: set
``criterion.balance_weight`` to 0. With top-p the mean entropy of the gate is a loss too, so that fewer experts suffice.

Where the paper is in doubt: h_e is relative to the mean size of the experts that the gate sees, so that equal sizes give the load-
balancing loss over all choices, as the paper says (its eq. 4 with plain h_e is hundreds of times larger); the entropy term is
the mean over tokens of -sum P log P, which falls as distributions get narrow (its eq. 5 as printed would make them wide).

Inside strata (``stratified_hmoe``) sizes are numbered through all strata, and the penalty of each gate is over the experts that it
sees, relative to their mean size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from smoe_mt.moe.experts.ragged import RaggedExperts, sizes_of
from smoe_mt.moe.routers.base import MakeRouter, Selection, Weighting
from smoe_mt.moe.routers.sized import SizedGate
from smoe_mt.moe.routers.threshold import Threshold
from smoe_mt.moe.routers.top_k import TopK
from smoe_mt.moe.strata import expected_rows
from smoe_mt.moe.system import STRATA, BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.stratified import StratifiedMoE
from smoe_mt.moe.systems.vanilla import MoE, default_weighting

LOSS_WEIGHTS = {"penalty": 0.1, "entropy": 0.03}


@dataclass(frozen=True)
class HMoEOptions:
    """Settings of the model that the two systems have."""

    hmoe_sizes: Any = field(
        default="arithmetic",
        metadata={
            "help": "hmoe: relative sizes of a block's experts, which have the hidden units of as many FFNs together: "
            "arithmetic, geometric or hybrid, smallest first, or a number for each expert, such as 1,1,2,4 (Hydra: [1,1,2,4])"
        },
    )
    hmoe_routing: Literal["top_p", "top_k"] = field(
        default="top_p",
        metadata={
            "help": "hmoe: top_p: experts until their probabilities sum to hmoe-top-p; top_k: top-k of them, no entropy loss"
        },
    )
    hmoe_top_p: float = field(
        default=0.6,
        metadata={
            "help": "hmoe: with top_p, a token takes experts until their probabilities sum to this (paper: 0.6)",
            "range": (0, 1),
        },
    )


def arithmetic(experts: int) -> list[float]:
    """9, 11, ..., 23 for eight experts (paper); for others as many even steps from 9 to 23."""
    return [9 + 14 * place for place in _places(experts)]


def geometric(experts: int) -> list[float]:
    """1, 2, 4, ..., 128 for eight experts (paper); for others as many even factors from 1 to 128."""
    return [128**place for place in _places(experts)]


def hybrid(experts: int) -> list[float]:
    """1, 1, 1, 1, 2, 2, 4, 4 for eight experts (paper); for others 1 for the first half, 2 and 4 for the next quarters."""
    return [(1, 1, 2, 4)[4 * e // experts] for e in range(experts)]


def _places(experts: int) -> list[float]:
    """0 to 1."""
    return [e / max(experts - 1, 1) for e in range(experts)]


RULES: dict[str, Callable[[int], list[float]]] = {"arithmetic": arithmetic, "geometric": geometric, "hybrid": hybrid}


def sizes(setting: Any, experts: int, ffn_dim: int) -> tuple[int, ...]:
    """Hidden units of each expert by ``hmoe_sizes``, ``experts * ffn_dim`` together (``sizes_of`` says how they are rounded).

    Raises:
        ValueError: no rule and no list of that many positive numbers, or fewer hidden units than experts.
    """
    rule = RULES.get(setting) if isinstance(setting, str) else None
    shares = rule(experts) if rule else _numbers(setting)
    if not shares or not all(0 < share < math.inf for share in shares):
        raise ValueError(
            f"hmoe_sizes must be one of {', '.join(RULES)}, or a positive number for each expert such as 1,1,2,4, "
            f"not {str(setting)[:60]!r}"
        )
    if len(shares) != experts:
        raise ValueError(
            f"hmoe_sizes has {len(shares)} numbers, but the block has {experts} experts: give one for each"
        )
    return sizes_of(shares, experts * ffn_dim)


def _numbers(setting: Any) -> Sequence[float]:
    """Empty for anything else than a list of numbers, or such text."""
    parts = setting.strip("[]() ").split(",") if isinstance(setting, str) else setting
    if not isinstance(parts, list | tuple):
        return ()
    try:
        return [float(str(part)) for part in parts]
    except ValueError:
        return ()


def selection(cfg: ModelSettings) -> Selection:
    """Raises ValueError for a threshold outside [0, 1] or a ``top_k`` below 1."""
    return Threshold(cfg.hmoe_top_p) if cfg.hmoe_routing == "top_p" else TopK(cfg.top_k, cfg.second_choice)


def choices(cfg: ModelSettings, visible: int) -> float:
    """Of a token at a gate with uniform probabilities."""
    return Threshold(cfg.hmoe_top_p).expected_choices(visible) if cfg.hmoe_routing == "top_p" else cfg.top_k


def _parts(cfg: ModelSettings, place: BlockPlace) -> dict[str, Any]:
    """What both blocks are built of: the bank, and gates that know the sizes of the experts that they see, the last ones."""
    experts = RaggedExperts(place.embed_dim, sizes(cfg.hmoe_sizes, sum(place.groups), place.ffn_dim), cfg.activation_fn)
    top_p = cfg.hmoe_routing == "top_p"
    weighting = Weighting.RENORMALISED if top_p else default_weighting(cfg.top_k)

    def router(visible: int) -> SizedGate:
        return SizedGate(place.embed_dim, experts.sizes[-visible:], selection(cfg), weighting, top_p, cfg.gate_bias)

    make_router: MakeRouter = router
    return {**common_settings(cfg, place), "experts": experts, "router": make_router}


SYSTEM = System(
    name="hmoe",
    title="mixture of experts of different sizes (HMoE)",
    build=lambda cfg, place: MoE(num_experts=place.num_experts, **_parts(cfg, place)),
    rows_per_token=lambda cfg, groups: (choices(cfg, sum(groups)),),
    row_name=lambda cfg: "hmoe",
    options=HMoEOptions,
    loss_weights=LOSS_WEIGHTS,
)

STRATIFIED = System(
    name="stratified_hmoe",
    title="stratified mixture of experts of different sizes (SMoE with HMoE's experts)",
    build=lambda cfg, place: StratifiedMoE(strata=place.strata, **_parts(cfg, place)),
    rows_per_token=lambda cfg, strata: (sum(expected_rows(strata, lambda visible: choices(cfg, visible))),),
    row_name=lambda cfg: "stratified_hmoe",
    figure_title=lambda strata: "SMoE-" + "-".join(map(str, strata)) + ", sizes differ",
    options=HMoEOptions,
    loss_weights=LOSS_WEIGHTS,
    experts_setting=STRATA,
    nested=True,
)
