"""From the model's settings to the MoE block of a layer: one row of the paper's tables each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.moe import ConditionalMoE, MoE, Routing, Stacking, StratifiedMoE
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.parallel import ExpertRanks


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


def _stratified(cfg: TransformerConfig, common: dict[str, Any]) -> nn.Module:
    return StratifiedMoE(strata=cfg.strata, **common)


def _plain(cfg: TransformerConfig, common: dict[str, Any]) -> nn.Module:
    return _pre_norm(MoE(num_experts=cfg.num_experts, **common), cfg, common)


def _cmr(cfg: TransformerConfig, common: dict[str, Any]) -> nn.Module:
    moe = ConditionalMoE(num_experts=cfg.num_experts, gate_dropout=cfg.cmr_gate_dropout, **common)
    return _pre_norm(moe, cfg, common)


def _stacking(cfg: TransformerConfig, common: dict[str, Any]) -> nn.Module:
    return _pre_norm(Stacking(strata=cfg.strata, **common), cfg, common)


def _pre_norm(moe: nn.Module, cfg: TransformerConfig, common: dict[str, Any]) -> nn.Module:
    """The release variant has its dropout inside the experts."""
    return PreNormBlock(moe, common["embed_dim"], cfg.dropout if cfg.variant == "paper" else 0.0)


BUILDERS: dict[str, Callable[[TransformerConfig, dict[str, Any]], nn.Module]] = {
    "vanilla": _plain,
    "switch": _plain,
    "eom": _plain,
    "cmr": _cmr,
    "stacking": _stacking,
    "stratified": _stratified,
}


def build_block(cfg: TransformerConfig, embed_dim: int, ffn_dim: int) -> nn.Module:
    """The block that ``--moe`` names: (x [B, T, D], padding mask) -> (y, routing), norms and residuals inside.

    Raises:
        UserError: settings that the block refuses.
    """
    common = {
        "embed_dim": embed_dim,
        "ffn_dim": ffn_dim,
        "top_k": 1 if cfg.moe == "switch" else cfg.top_k,
        "capacity_factor": capacity_factor(cfg),
        "variant": cfg.variant,
        "dropout": cfg.dropout,
        "activation": cfg.activation_fn,
        "backend": cfg.moe_backend,
        "eom_p": eom_p(cfg),
        "second_choice": cfg.second_choice,
        "debug": cfg.moe_debug,
    }
    try:
        block = BUILDERS[cfg.moe](cfg, common)
        spread(block, getattr(cfg, "expert_ranks", None))
        return block
    except ValueError as error:
        raise UserError(f"--moe {cfg.moe}: {error}") from None


def spread(block: nn.Module, ranks: ExpertRanks | None) -> None:
    """Keep this rank's experts alone, block by block, so that no rank ever has all of a model."""
    for module in block.modules():
        if isinstance(module, Experts) and ranks is not None:
            module.spread(ranks)


def capacity_factor(cfg: TransformerConfig) -> float:
    """As set; unset: 2, and 1 for what the released code calls Switch."""
    if cfg.capacity_factor is not None:
        return cfg.capacity_factor
    return 1.0 if cfg.moe == "switch" and cfg.variant == "release" else 2.0


def eom_p(cfg: TransformerConfig) -> float:
    """As set; unset: the paper's 0.1 for EOM, and no masking elsewhere."""
    if cfg.eom_p is not None:
        return cfg.eom_p
    return 0.1 if cfg.moe == "eom" else 0.0
