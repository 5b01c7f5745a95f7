"""From the model's settings to the MoE block of a layer, which its system builds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS, ExpertBank, MoEBlock, Routing
from smoe_mt.moe.distributed.expert_parallel import shard_experts
from smoe_mt.moe.shared import with_shared_experts


class PreNormBlock(nn.Module):
    """Pre-norm, dropout and residual around a layer that has none, as around a dense FFN: x + dropout(layer(norm(x)))."""

    def __init__(self, moe: nn.Module, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.moe = moe
        self.dropout = dropout

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        y, routing = self.moe(self.norm(x), padding_mask)
        return x + F.dropout(y, self.dropout, self.training), routing


def start_equal(block: nn.Module) -> None:
    """Give all experts of each bank the weights of its first one. The gates, which differ, draw them apart in training.

    Raises:
        ValueError: experts of different sizes.
    """
    for bank in (module for module in block.modules() if isinstance(module, ExpertBank)):
        if bank.uniform_size is None:
            raise ValueError("experts of different sizes cannot start equal: set expert_init=independent")
        for stack in bank.stacks().values():
            with torch.no_grad():
                stack.copy_(stack[:1].clone().expand_as(stack))


def build_block(cfg: TransformerConfig, side: str, layer: int) -> nn.Module:
    """The block that ``--moe`` names: (x [B, T, D], padding mask) -> (y, routing), norms and residuals inside.

    side, layer  "encoder" or "decoder", and the number of the layer there, from 1

    Raises:
        UserError: settings that the block refuses.
    """
    sizes = getattr(cfg, side)
    place = cfg.places[side][layer // cfg.moe_freq - 1]
    try:
        block = SYSTEMS[str(cfg.moe)].build(cfg, place)
        if not isinstance(block, MoEBlock):
            raise UserError(f"--moe {cfg.moe}: its build function returned a {type(block).__name__}, not a MoEBlock")
        if str(getattr(cfg, "expert_init", "independent")) == "equal":
            start_equal(block)
        block = with_shared_experts(cfg, block, place.embed_dim)
        ranks = getattr(cfg, "expert_ranks", None)
        if ranks is not None:  # block by block, so that no rank ever has all of a model
            shard_experts(block, ranks)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--moe {cfg.moe}: {error}") from None
    if block.has_residual:
        return block
    # The release variant has its dropout inside the experts.
    return PreNormBlock(block, sizes.embed_dim, cfg.dropout if cfg.variant == "paper" else 0.0)
