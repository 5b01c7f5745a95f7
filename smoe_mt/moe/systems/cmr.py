"""Conditional MoE routing (CMR; paper: section 4): a sigmoid gate mixes a shared FFN and a plain MoE layer.

    y = (1 - g) FFN(x) + g MoE(x),   g = sigmoid(w x + b)

The budget loss pulls the mean of g over all tokens and blocks of the model to a target: a loss of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.block import MoEBlock, Routing, zero_at_padding
from smoe_mt.moe.experts.activations import activation as known_activation
from smoe_mt.moe.routers.base import at_least_float32
from smoe_mt.moe.system import BlockPlace, ModelLoss, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE, MoESettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ConditionalMoE(MoEBlock):
    """A plain MoE layer and a shared FFN, mixed per token; norm, dropout and residual belong to the transformer layer.

    gate_dropout  dropout on g in training, rescaled: g may exceed 1
    The other settings are those of ``MoE``, as which the experts' part is built. variant "release" has dropout on
    the shared FFN's output, as on each expert's.

    Parameters: those of ``moe``; ``fc1``, ``fc2`` of the shared FFN; ``mix.weight`` [1, D], ``mix.bias`` [1].

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_experts: int,
        top_k: int = 2,
        *,
        gate_dropout: float = 0.1,
        **settings: Unpack[MoESettings],
    ) -> None:
        super().__init__()
        if not 0 <= gate_dropout < 1:
            raise ValueError(f"gate_dropout must be at least 0 and below 1, not {gate_dropout}")
        self.gate_dropout = gate_dropout
        self.moe = MoE(embed_dim, ffn_dim, num_experts, top_k, **settings)
        self.activation = settings.get("activation", "relu")
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        self.mix = nn.Linear(embed_dim, 1)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        experts, routing = self.moe(x, padding_mask)
        x = zero_at_padding(x, padding_mask)
        shared = self.fc2(known_activation(self.activation).whole(self.fc1(x)))
        shared = F.dropout(shared, self.moe.settings.expert_dropout, self.training)
        g = self._mixing_gate(x)
        g, shared = zero_at_padding(g, padding_mask), zero_at_padding(shared, padding_mask)
        y = (1 - g) * shared + g * experts
        return y.to(x.dtype), replace(routing, sums={**routing.sums, "gate": g.sum()})

    def _mixing_gate(self, x: Tensor) -> Tensor:
        """g of each token, with dropout in training; [..., 1], at least float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            g = torch.sigmoid(F.linear(x, self.mix.weight.to(x.dtype), self.mix.bias.to(x.dtype)))
        return F.dropout(g, self.gate_dropout, self.training)


@dataclass(frozen=True)
class ConditionalOptions:
    """Settings of the model that this system alone has."""

    cmr_gate_dropout: float = field(
        default=0.1,
        metadata={
            "help": "cmr: dropout of the gate between FFN and experts",
            "training_only": True,
            "range": (0, 1, False, True),
        },
    )


@dataclass(frozen=True)
class BudgetOptions:
    """Settings of the criterion that this system alone has."""

    cmr_budget: float = field(
        default=0.8,
        metadata={"help": "moe=cmr: share of a token that should come from the experts (paper: 0.8)", "range": (0, 1)},
    )
    cmr_weight: float = field(
        default=0.01,
        metadata={"help": "moe=cmr: weight of the budget loss, per target token (paper: 0.01)", "range": (0, 1e6)},
    )


def mixing_gate_mean(blocks: Sequence[Routing]) -> Tensor:
    """Mean of the mixing gate over the tokens of all blocks; scalar."""
    sums = torch.stack([block.sums["gate"] for block in blocks])
    tokens = torch.stack([(block.visits > 0).sum() for block in blocks])
    return sums.sum() / tokens.sum().clamp(min=1)


def budget_loss(blocks: Sequence[Routing], options: Any) -> ModelLoss:
    """|mean of g - budget|, and the mean of g to be logged."""
    mean_gate = mixing_gate_mean(blocks)
    return ModelLoss({"cmr": (mean_gate - options.cmr_budget).abs()}, {"cmr_gate": mean_gate.detach()})


def _build(cfg: ModelSettings, place: BlockPlace) -> ConditionalMoE:
    settings = common_settings(cfg, place)
    return ConditionalMoE(num_experts=place.num_experts, gate_dropout=cfg.cmr_gate_dropout, **settings)


SYSTEM = System(
    name="cmr",
    title="conditional MoE routing",
    build=_build,
    rows_per_token=lambda cfg, groups: (cfg.top_k,),
    dense_ffns=1,
    row_name=lambda cfg: "cmr",
    options=ConditionalOptions,
    loss_options=BudgetOptions,
    model_loss=budget_loss,
    rows_vary=False,
)
