"""Transformer layers whose attention is `attention.Attention`, and those whose FFN half is a block of ``smoe_mt.moe``.

fairseq's layer keeps its attention half; its FFN half is emptied, and the block does that work after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import Tensor, nn

from smoe_mt.models.attention import Attention
from smoe_mt.models.blocks import build_block
from smoe_mt.moe import Routing


class _NoFFN(nn.Module):
    """In fc1's place: the parent's FFN half then adds a scalar zero to its residual."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def _empty_ffn_half(layer: TransformerEncoderLayerBase | TransformerDecoderLayerBase) -> None:
    layer.fc1, layer.fc2, layer.final_layer_norm = _NoFFN(), nn.Identity(), nn.Identity()


class EncoderLayer(TransformerEncoderLayerBase):
    """fairseq's encoder layer."""

    def build_self_attention(self, embed_dim: int, cfg: TransformerConfig) -> nn.Module:
        """As fairseq's."""
        return Attention(
            embed_dim,
            cfg.encoder.attention_heads,
            dropout=cfg.attention_dropout,
            self_attention=True,
        )


class DecoderLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer."""

    def build_self_attention(
        self, embed_dim: int, cfg: TransformerConfig, add_bias_kv: bool = False, add_zero_attn: bool = False
    ) -> nn.Module:
        """As fairseq's, without what its layer never asks for (`add_bias_kv`, `add_zero_attn`)."""
        return Attention(
            embed_dim,
            cfg.decoder.attention_heads,
            dropout=cfg.attention_dropout,
            self_attention=not cfg.cross_self_attention,
        )

    def build_encoder_attention(self, embed_dim: int, cfg: TransformerConfig) -> nn.Module:
        """As fairseq's."""
        return Attention(
            embed_dim,
            cfg.decoder.attention_heads,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
        )


def _through_block(block: nn.Module, x_TBD: Tensor, padding_mask_BT: Tensor | None) -> tuple[Tensor, Routing]:
    """fairseq's layers are time-first; token order, which decides who is dropped, is batch-first."""
    y_BTD, routing = block(x_TBD.transpose(0, 1), padding_mask_BT)
    return y_BTD.transpose(0, 1), routing


class MoEEncoderLayer(EncoderLayer):
    """Encoder layer, the ``number``-th from 1, whose FFN half is a MoE block."""

    def __init__(self, cfg: TransformerConfig, number: int) -> None:
        super().__init__(cfg)
        _empty_ffn_half(self)
        self.block = build_block(cfg, "encoder", number)

    def forward(
        self, x: Tensor, encoder_padding_mask: Tensor | None, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, Routing]:
        """x [T, B, D], padding mask [B, T]; returns ([T, B, D], routing)."""
        x = super().forward(x, encoder_padding_mask, attn_mask)
        return _through_block(self.block, x, encoder_padding_mask)


class MoEDecoderLayer(DecoderLayer):
    """Decoder layer, the ``number``-th from 1, whose FFN half is a MoE block."""

    def __init__(self, cfg: TransformerConfig, number: int, no_encoder_attn: bool = False) -> None:
        super().__init__(cfg, no_encoder_attn)
        _empty_ffn_half(self)
        self.block = build_block(cfg, "decoder", number)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None, Routing]:
        """x [T, B, D] and fairseq's further arguments; returns ([T, B, D], attention, routing)."""
        x, attn, _ = super().forward(x, *args, **kwargs)
        x, routing = _through_block(self.block, x, kwargs.get("self_attn_padding_mask"))
        return x, attn, routing


@contextmanager
def collect_routing(layers: Iterable[nn.Module]) -> Iterator[list[Routing]]:
    """While open, gathers the routing that MoE layers return, in layer order.

    fairseq's encoder and decoder loops drop what a layer returns last; hooks read it where it is returned, so that
    neither loop has to be written again and no layer has to remember its last pass.
    """
    collected: list[Routing] = []
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: collected.append(output[-1]))
        for layer in layers
        if isinstance(layer, (MoEEncoderLayer, MoEDecoderLayer))
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()
