"""Shared experts (DeepSeekMoE, Dai et al. 2024, arXiv 2401.06066, section 3.2): what every token passes beside the routed experts.

n shared experts are one FFN of n times an expert's hidden units, for their outputs are added up. It stands beside a whole block,
once, whatever the block's system: a token passes it once however many strata it visits. So visits go on to say what a token
requests beyond that, the cost of the shared part does not depend on the gates, and kernels for whole blocks can be used.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.block import MoEBlock, Routing, zero_at_padding
from smoe_mt.moe.experts.activations import activation as known_activation
from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.system import ModelSettings


class SharedExperts(MoEBlock):
    """A block and an FFN beside it, added up:

        y = block(x) + FFN(x)                     norm, dropout and residual belong to the transformer layer
        y = block(x) + dropout(FFN(norm(x)))      the block has them inside (SMoE): so has its FFN

    routed      the block
    shared      n, the number of shared experts: the FFN has n times the hidden units of an expert, of a mean one where they differ
    activation  of the FFN
    dropout     on the FFN's output

    Parameters: those of ``routed``; ``shared.fc1``, ``shared.fc2``; ``norm`` where the block has norms inside.
    ``Routing.units`` counts the hidden units of the FFN too. Output at padding: as the block's.

    Raises:
        ValueError: n below 1.
    """

    def __init__(
        self, routed: MoEBlock, shared: int, embed_dim: int, activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if shared < 1:
            raise ValueError(f"shared_experts must be at least 1 here, not {shared}")
        sizes = [size for bank in routed.modules() if isinstance(bank, ExpertBank) for size in bank.hidden_sizes]
        self.units = round(shared * sum(sizes) / len(sizes))
        self.has_residual = routed.has_residual
        self.activation = known_activation(activation)
        self.dropout = dropout
        self.routed = routed
        self.norm = nn.LayerNorm(embed_dim) if routed.has_residual else None
        self.shared = nn.ModuleDict({"fc1": nn.Linear(embed_dim, self.units), "fc2": nn.Linear(self.units, embed_dim)})

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None."""
        y, routing = self.routed(x, padding_mask)
        shared = zero_at_padding(x, padding_mask)
        shared = shared if self.norm is None else self.norm(shared)
        shared = self.shared["fc2"](self.activation.whole(self.shared["fc1"](shared)))
        shared = zero_at_padding(F.dropout(shared, self.dropout, self.training), padding_mask)
        units = routing.units + self.units * (routing.visits > 0)
        return y + shared.to(y.dtype), replace(routing, units_of_visit=units)


def with_shared_experts(cfg: ModelSettings, block: MoEBlock, embed_dim: int) -> MoEBlock:
    """The block with ``cfg.shared_experts`` beside it; 0: the block as it is.

    Raises:
        ValueError: settings that make no sense, each named.
    """
    shared = getattr(cfg, "shared_experts", 0)
    if not shared:
        return block
    inside = block.has_residual or cfg.variant == "release"  # elsewhere the transformer layer has the dropout
    return SharedExperts(block, shared, embed_dim, cfg.activation_fn, cfg.dropout if inside else 0.0)
