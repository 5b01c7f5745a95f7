"""fairseq's attention, computed in training by torch's scaled_dot_product_attention.

fairseq hands self-attention without weights to torch already; its encoder-decoder attention it computes step by step, and makes
the weights of the last layer, which nobody reads in training. Here both are one kernel, and queries, keys and values that come
from the same input are one product. In evaluation, and with incremental state, all is fairseq's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn


class Attention(MultiheadAttention):
    """As fairseq's, with the same parameters. In training no weights are returned, whether or not they are asked for.

    A query all of whose keys are padding attends to them evenly, where fairseq's output is not a number: batches of a fixed
    shape may have rows that are nothing but padding.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: Any = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query [T, B, D], key and value [S, B, D], padding bool [B, S], attn_mask float [T, S] that is added to the scores."""
        if not (self.training and key is value and key is not None) or incremental_state is not None or before_softmax:
            return super().forward(  # type: ignore[no-any-return]
                query, key, value, key_padding_mask, incremental_state, need_weights, static_kv, attn_mask,
                before_softmax, need_head_weights,
            )  # fmt: skip
        q, k, v = self._projections(query, key)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3) for x in (q, k, v))
        mask = merged_mask(key_padding_mask, attn_mask, q.dtype)
        y_BHTd = F.scaled_dot_product_attention(q, k, v, mask, self.dropout_module.p)
        return self.out_proj(y_BHTd.permute(2, 0, 1, 3).flatten(2)), None

    def _projections(self, query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Queries [T, B, D], keys and values [S, B, D]: those of one input by one product."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if not all(type(layer) is nn.Linear and layer.bias is not None for layer in layers):
            return self.q_proj(query), self.k_proj(key), self.v_proj(key)
        if query is key:
            return _one_product(query, layers)
        return self.q_proj(query), *_one_product(key, layers[1:])


def _one_product(x: Tensor, layers: tuple[Any, ...]) -> tuple[Tensor, ...]:
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), dim=-1)


def merged_mask(padding_BS: Tensor | None, attn_mask_TS: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores, [B, 1, T or 1, S]: the lowest finite number at padding, so that no row is all -inf."""
    if padding_BS is None:
        return None if attn_mask_TS is None else attn_mask_TS.to(dtype)
    B, S = padding_BS.shape
    mask = torch.zeros(B, 1, 1, S, dtype=dtype, device=padding_BS.device)
    mask = mask.masked_fill(padding_BS.bool()[:, None, None], torch.finfo(dtype).min)
    return mask if attn_mask_TS is None else mask + attn_mask_TS.to(dtype)
