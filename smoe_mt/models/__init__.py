"""Transformers whose every second FFN is a block of ``smoe_mt.moe``."""

from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.models.smoe_transformer import SMoETransformerModel

__all__ = ["SMoETransformerConfig", "SMoETransformerModel"]
