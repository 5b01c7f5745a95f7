"""MPOE (Gao et al. 2022, arXiv 2203.01104): experts that share the central tensor of a matrix product operator.

Each matrix of an expert is a chain of small tensors; the middle one, with nearly all numbers, is the same for all experts of
the block. E experts have the parameters of little more than one. Routing is that of vanilla MoE.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smoe_mt.moe.experts.factorised import FactorisedExperts
from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE


@dataclass(frozen=True)
class MPOEOptions:
    """Settings of the model that this system alone has."""

    mpoe_shape: str = field(
        default="",
        metadata={
            "help": "mpoe: factors of the embedding and of the FFN dimension, equally many, such as 4,4,8,4,1x4,4,8,4,4; "
            "empty: five factors each, as even as possible"
        },
    )
    mpoe_bond: int = field(
        default=0, metadata={"help": "mpoe: the largest bond between two tensors; 0: no limit", "range": (0, 1_048_576)}
    )
    mpoe_central_mask: float = field(
        default=0.0,
        metadata={
            "help": "mpoe: probability that an update gives the shared central tensors no gradient",
            "training_only": True,
            "range": (0, 1),
        },
    )


def build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    """A plain layer whose bank computes its weights.

    Raises:
        ValueError: a shape that does not fit.
    """
    dim_shape, ffn_shape = parse_shape(cfg.mpoe_shape)
    experts = FactorisedExperts(
        place.num_experts,
        place.embed_dim,
        place.ffn_dim,
        cfg.activation_fn,
        dim_shape,
        ffn_shape,
        cfg.mpoe_bond,
        cfg.mpoe_central_mask,
    )
    return MoE(num_experts=place.num_experts, **common_settings(cfg, place), experts=experts)


def parse_shape(shape: str) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """``"4,4,8x2,8,8"`` as ((4, 4, 8), (2, 8, 8)); empty: (None, None).

    Raises:
        ValueError: something else.
    """
    if not shape:
        return None, None
    try:
        dim, ffn = (tuple(int(part) for part in side.split(",")) for side in shape.split("x"))
    except ValueError:
        raise ValueError(f"mpoe_shape must be two lists of factors such as 4,4,8x2,8,8, not {shape!r}") from None
    return dim, ffn


SYSTEM = System(
    name="mpoe",
    title="mixture of experts that share a central tensor (MPOE)",
    build=build,
    rows_per_token=lambda cfg, groups: (cfg.top_k,),
    row_name=lambda cfg: "mpoe",
    options=MPOEOptions,
    rows_vary=False,
)
