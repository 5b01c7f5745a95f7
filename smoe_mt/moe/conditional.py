"""Conditional MoE routing (CMR; paper: section 4): a sigmoid gate mixes a shared FFN and a plain MoE layer.

    y = (1 - g) FFN(x) + g MoE(x),   g = sigmoid(w x + b)

The budget loss pulls the mean of g over all tokens and blocks of the model to a target: it belongs to the criterion,
which adds up each block's ``routing.gate_sum``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.activations import activation as known_activation
from smoe_mt.moe.gating import at_least_float32
from smoe_mt.moe.layer import MoE, MoESettings
from smoe_mt.moe.routing import Routing

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ConditionalMoE(nn.Module):
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
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        self.mix = nn.Linear(embed_dim, 1)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        experts, routing = self.moe(x, padding_mask)
        shared = self.fc2(known_activation(self.moe.experts.activation).whole(self.fc1(x)))
        shared = F.dropout(shared, self.moe.settings.expert_dropout, self.training)
        g = self._mixing_gate(x)
        if padding_mask is not None:
            g = g.masked_fill(padding_mask.unsqueeze(-1), 0.0)
            shared = shared.masked_fill(padding_mask.unsqueeze(-1), 0.0)
        y = (1 - g) * shared + g * experts
        return y.to(x.dtype), replace(routing, gate_sum=g.sum())

    def _mixing_gate(self, x: Tensor) -> Tensor:
        """g of each token, with dropout in training; [..., 1], at least float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            g = torch.sigmoid(F.linear(x, self.mix.weight.to(x.dtype), self.mix.bias.to(x.dtype)))
        return F.dropout(g, self.gate_dropout, self.training)
