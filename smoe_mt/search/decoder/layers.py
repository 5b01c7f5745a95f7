"""The layers of a prepared decoder: few operators a step, the same results as fairseq's to rounding.

Shape letters: R = B * K rows, sentence by sentence; D model dimension; H, d heads and their dimension; S source tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.moe.linear import ACTIVATIONS, PackedLinear
from smoe_mt.search.decoder.caches import Caches, Sources
from smoe_mt.search.decoder.graphs import StaticCaches

Linear = type[PackedLinear]  # the precision of the products


class Norm:
    """A layer norm."""

    def __init__(self, norm: Any) -> None:
        self.shape, self.weight, self.bias, self.eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class SelfAttention:
    """Attention of a beam to its ancestors; queries, keys and values are one product."""

    def __init__(self, attention: Any, linear: Linear) -> None:
        self.heads = int(attention.num_heads)
        self.qkv = _joined(linear, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias)

    def __call__(self, x_RD: Tensor, residual_RD: Tensor, caches: Caches | StaticCaches, layer: int) -> Tensor:
        """The residual and what is attended to; [R, D]."""
        qkv = self.qkv(x_RD).view(-1, caches.beam, 3, self.heads, x_RD.size(1) // self.heads).permute(2, 0, 3, 1, 4)
        keys, values = caches.write(layer, qkv[1:])
        y_BHKd = F.scaled_dot_product_attention(qkv[0], keys, values, caches.mask)
        return self.out(y_BHKd.transpose(1, 2).reshape(x_RD.shape), plus_RO=residual_RD)


class CrossAttention:
    """Attention to the source, whose keys and values all beams of a sentence share."""

    def __init__(self, attention: Any, linear: Linear) -> None:
        self.heads = int(attention.num_heads)
        self.query = linear(attention.q_proj.weight, attention.q_proj.bias)
        self.kv = _joined(linear, attention.k_proj, attention.v_proj)
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias)

    def pairs(self, encoded_BSD: Tensor) -> Tensor:
        """Keys and values of the source, once for a search; [2, B, H, S, d]."""
        kv = self.kv(encoded_BSD.flatten(0, 1))
        return kv.view(*encoded_BSD.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)

    def __call__(self, x_RD: Tensor, residual_RD: Tensor, sources: Sources, beam: int, layer: int) -> Tensor:
        """The residual and what is attended to; [R, D]."""
        q_BHKd = self.query(x_RD).view(-1, beam, self.heads, x_RD.size(1) // self.heads).transpose(1, 2)
        keys, values = sources.layers[layer]
        y_BHKd = F.scaled_dot_product_attention(q_BHKd, keys, values, sources.mask)
        return self.out(y_BHKd.transpose(1, 2).reshape(x_RD.shape), plus_RO=residual_RD)


class DenseFFN:
    """W_2 act(W_1 x)."""

    def __init__(self, layer: Any, activation: str, linear: Linear) -> None:
        self.first = linear(layer.fc1.weight, layer.fc1.bias)
        self.second = linear(layer.fc2.weight, layer.fc2.bias)
        self.activation = activation

    def __call__(self, x_RD: Tensor, residual_RD: Tensor) -> Tensor:
        """The residual and the FFN's output; [R, D]."""
        return self.second(self.first(x_RD, self.activation), plus_RO=residual_RD)


class Layer:
    """A layer of the decoder, the ``number``-th from 0: pre-norm, or post-norm as fairseq's may be.

    A block stands in its place with its own norms and residuals: it is called as it is, whatever its system.
    """

    def __init__(self, layer: Any, number: int, linear: Linear) -> None:
        self.number = number
        self.pre = bool(layer.normalize_before)
        self.self_norm, self.self_attention = Norm(layer.self_attn_layer_norm), SelfAttention(layer.self_attn, linear)
        self.cross_norm, self.cross_attention = (
            Norm(layer.encoder_attn_layer_norm),
            CrossAttention(layer.encoder_attn, linear),
        )
        self.block = getattr(layer, "block", None)
        if self.block is None:
            self.ffn_norm, self.ffn = (
                Norm(layer.final_layer_norm),
                DenseFFN(layer, activation_of(layer) or "none", linear),
            )

    def __call__(self, x_RD: Tensor, caches: Caches | StaticCaches) -> Tensor:
        """One step, [R, D]."""
        h = self.self_norm(x_RD) if self.pre else x_RD
        x_RD = self.self_attention(h, x_RD, caches, self.number)
        x_RD = x_RD if self.pre else self.self_norm(x_RD)
        h = self.cross_norm(x_RD) if self.pre else x_RD
        x_RD = self.cross_attention(h, x_RD, caches.sources, caches.beam, self.number)
        x_RD = x_RD if self.pre else self.cross_norm(x_RD)
        if self.block is not None:
            return self.block(x_RD.unsqueeze(1))[0].squeeze(1)  # type: ignore[no-any-return]
        h = self.ffn_norm(x_RD) if self.pre else x_RD
        x_RD = self.ffn(h, x_RD)
        return x_RD if self.pre else self.ffn_norm(x_RD)


def activation_of(layer: Any) -> str | None:
    """The name of a dense layer's activation; None for one that is not known here."""
    name = getattr(layer.activation_fn, "__name__", "")
    return name if name in ACTIVATIONS and name != "none" else None


def _joined(linear: Linear, *layers: Any) -> PackedLinear:
    """Several products of one input as one."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return linear(weight, torch.cat([layer.bias.detach() for layer in layers]))
