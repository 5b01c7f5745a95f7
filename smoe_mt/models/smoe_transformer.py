"""Model ``smoe_transformer``: fairseq's transformer with a MoE block in place of every ``moe_freq``-th FFN."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, cast

import torch
from fairseq.data import Dictionary
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModelBase,
)
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.models.config import SMoETransformerConfig, transformer_config
from smoe_mt.models.layers import DecoderLayer, EncoderLayer, MoEDecoderLayer, MoEEncoderLayer, collect_routing
from smoe_mt.models.logits import LogitsMemory
from smoe_mt.models.padding import may_ask, padding_mask
from smoe_mt.moe import SYSTEMS, ExpertBank, Router, System
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.routers.base import routers_of


def _is_moe_layer(cfg: TransformerConfig, number: int) -> bool:
    """Whether the layer (1-based) has a MoE block: layers 2, 4, 6 for moe_freq 2."""
    return cfg.moe != DENSE and number % cfg.moe_freq == 0


class _CountsLayers:
    """fairseq builds layers without telling their number."""

    def _next_layer(self) -> int:
        self._built_layers: int = getattr(self, "_built_layers", 0) + 1
        return self._built_layers


class SMoETransformerEncoder(_CountsLayers, TransformerEncoderBase):
    """fairseq's encoder, which on a GPU never asks whether there is padding."""

    def build_encoder_layer(self, cfg: TransformerConfig) -> nn.Module:
        number = self._next_layer()
        return MoEEncoderLayer(cfg, number) if _is_moe_layer(cfg, number) else EncoderLayer(cfg)

    def forward_scriptable(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Any]]:
        """src_tokens [B, S] -> fairseq's encoder output, "encoder_out" [S, B, D]; the lengths are counted anew."""
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        mask_BS = padding_mask(src_tokens, self.padding_idx)
        if mask_BS is not None:
            x = x.masked_fill(mask_BS.unsqueeze(-1), 0)
        x = x.transpose(0, 1)
        states = [x]
        for layer in self.layers:
            output = layer(x, encoder_padding_mask=mask_BS)
            x = output[0] if isinstance(output, tuple) else output
            states.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        padding_BS = src_tokens.eq(self.padding_idx) if mask_BS is None else mask_BS
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding_BS],
            "encoder_embedding": [embedding],
            "encoder_states": states if return_all_hiddens else [],
            "fc_results": [None] * len(self.layers) if return_all_hiddens else [],
            "src_tokens": [],
            "src_lengths": [(~padding_BS).sum(dim=1, dtype=torch.int32).reshape(-1, 1)],
        }


class SMoETransformerDecoder(_CountsLayers, TransformerDecoderBase):
    """fairseq's decoder, which in training on a GPU never asks whether there is padding."""

    #: How often training began or went on: fairseq's optimisers change weights without torch counting it.
    times_trained = 0
    #: Where the logits of each batch lie, in a training on a CPU.
    logits_memory: LogitsMemory | None = None

    def train(self, mode: bool = True) -> SMoETransformerDecoder:
        """As any module's."""
        self.times_trained += mode
        super().train(mode)
        return self

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> nn.Module:
        number = self._next_layer()
        if _is_moe_layer(cfg, number):
            return MoEDecoderLayer(cfg, number, no_encoder_attn)
        return DecoderLayer(cfg, no_encoder_attn)

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: Any, incremental_state: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As fairseq's."""
        # With cross_self_attention, which its layers read for themselves, it makes the padding mask without a question.
        self.cross_self_attention = incremental_state is None and not may_ask(prev_output_tokens)
        return super().extract_features(prev_output_tokens, encoder_out, incremental_state, *args, **kwargs)

    def output_layer(self, features: Tensor) -> Tensor:
        """features [B, T, D] -> logits [B, T, V]."""
        if self.logits_memory is None:
            return cast(Tensor, super().output_layer(features))
        return self.logits_memory.project(features, self.output_projection.weight)

    def buffered_future_mask(self, tensor: Tensor) -> Tensor:
        """float [T, T], -inf after the diagonal: made on the device each time, since a captured graph may outlive a buffer."""
        if may_ask(tensor):
            return cast(Tensor, super().buffered_future_mask(tensor))
        T = tensor.size(0)
        return torch.full((T, T), float("-inf"), dtype=tensor.dtype, device=tensor.device).triu_(1)


def freeze_all_but_experts(model: nn.Module) -> None:
    """Leave experts, what they share, and gates alone to the optimiser, but for weights that no training changes. UserError for
    a model without them."""
    trained = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (ExpertBank, Router))
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    if not trained:
        raise UserError("train_only=experts leaves nothing to train, this model has no experts: set train_only=all")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


#: The narrowest models that train faster in bfloat16 on such a CPU, without MoE blocks and with them (docs/cost.md).
LEAST_WIDTH_IN_BF16 = {True: 128, False: 512}


def bf16_is_faster(dense: bool, embed_dim: int) -> bool:
    """Whether a training on this CPU is: what ``cpu_bf16=auto`` goes by."""
    return cpu_computes_bf16() and embed_dim >= LEAST_WIDTH_IN_BF16[dense]


def cpu_computes_bf16() -> bool:
    """Whether bfloat16 products are faster than float32 here; without AVX512-BF16 they are emulated, 100 x slower."""
    return bool(torch.cpu._is_avx512_bf16_supported())


@register_model("smoe_transformer", dataclass=SMoETransformerConfig)
class SMoETransformerModel(TransformerModelBase):
    """fairseq's pre-norm transformer with MoE blocks; ``extra`` of its output carries their routing."""

    _requested: tuple[str, ...] = ()

    @classmethod
    def add_args(cls, parser: Any) -> None:
        # The parent's own version adds fairseq's transformer flags instead of the dataclass's.
        super(TransformerModelBase, cls).add_args(parser)

    @classmethod
    def build_model(cls, cfg: SMoETransformerConfig, task: FairseqTask) -> SMoETransformerModel:
        nested = transformer_config(cfg)
        if nested.moe != DENSE and nested.moe_freq > min(nested.encoder.layers, nested.decoder.layers):
            raise UserError(
                f"moe_freq={nested.moe_freq} leaves {nested.encoder.layers} encoder and {nested.decoder.layers} decoder "
                "layers without a MoE block on one side: lower moe_freq, or set moe to none"
            )
        nested.expert_ranks = getattr(task, "expert_ranks", None)
        if nested.expert_ranks is not None and nested.encoder.embed_dim != nested.decoder.embed_dim:
            raise UserError("experts can be spread over ranks only where encoder_embed_dim is decoder_embed_dim")
        model = super().build_model(nested, task)
        for name, module in model.named_modules():
            if isinstance(module, Router):
                module.where = f"{name}, {module.where}"
        if str(nested.train_only) == "experts":
            freeze_all_but_experts(model)
        return model

    @classmethod
    def build_encoder(
        cls, cfg: TransformerConfig, src_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> SMoETransformerEncoder:
        return SMoETransformerEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(
        cls, cfg: TransformerConfig, tgt_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> SMoETransformerDecoder:
        return SMoETransformerDecoder(cfg, tgt_dict, embed_tokens)

    @property
    def system(self) -> System | None:
        """The record of its kind of MoE; None of a dense model."""
        return None if self.cfg.moe == DENSE else SYSTEMS[str(self.cfg.moe)]

    @property
    def moe_layers(self) -> dict[str, tuple[int, ...]]:
        """Numbers (1-based) of the layers with a MoE block, by side."""
        sides = {"encoder": self.encoder.layers, "decoder": self.decoder.layers}
        kinds = (MoEEncoderLayer, MoEDecoderLayer)
        return {
            side: tuple(i for i, layer in enumerate(layers, start=1) if isinstance(layer, kinds))
            for side, layers in sides.items()
        }

    def reuse_memory_of_logits(self) -> None:
        """From now on a pass writes its logits over those of the pass before: for a training on a CPU, in float32 or bfloat16."""
        self.decoder.logits_memory = LogitsMemory()

    def request_losses(self, names: tuple[str, ...]) -> None:
        """Let the gates compute these of the losses that they compute on request alone.

        Raises:
            UserError: a gate that has no such loss.
        """
        if names == self._requested:
            return
        for router in routers_of(self):
            try:
                router.request_losses(names)
            except ValueError as error:
                raise UserError(f"--moe {self.cfg.moe}: {error}; leave its weight at 0") from None
        self._requested = names

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """src_tokens [B, S], prev_output_tokens [B, T] -> (logits [B, T, V], extra).

        ``extra["encoder_routing"]`` and ``extra["decoder_routing"]``: a Routing per MoE block, in layer order.
        """
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=self._in_bf16(src_tokens)),
            collect_routing(self.encoder.layers) as encoder_routing,
            collect_routing(self.decoder.layers) as decoder_routing,
        ):
            logits, extra = super().forward(src_tokens, src_lengths, prev_output_tokens, **kwargs)
        extra["encoder_routing"] = tuple(encoder_routing)
        extra["decoder_routing"] = tuple(decoder_routing)
        return logits, extra

    def _in_bf16(self, src_tokens: Tensor) -> bool:
        if not self.training or src_tokens.device.type != "cpu" or self.cfg.cpu_bf16 == "off":
            return False
        if self.encoder.embed_tokens.weight.dtype is not torch.float32:  # common.fp16, a precision of its own
            return False
        return self.cfg.cpu_bf16 == "on" or bf16_is_faster(self.cfg.moe == "none", self.cfg.encoder.embed_dim)


@register_model_architecture("smoe_transformer", "smoe_transformer_tiny")
def smoe_transformer_tiny(args: Namespace) -> None:
    """2 + 2 layers, d 128, FFN 512, 4 heads: the quickstart's size."""
    _sizes(args, embed_dim=128, ffn_dim=512, layers=2, heads=4)


@register_model_architecture("smoe_transformer", "smoe_transformer_big")
def smoe_transformer_big(args: Namespace) -> None:
    """Transformer big: the paper's size for M15 and OPUS-100."""
    _sizes(args, embed_dim=1024, ffn_dim=4096, layers=6, heads=16)


def _sizes(args: Namespace, embed_dim: int, ffn_dim: int, layers: int, heads: int) -> None:
    for side in ("encoder", "decoder"):
        for name, value in (
            (f"{side}_embed_dim", embed_dim),
            (f"{side}_ffn_embed_dim", ffn_dim),
            (f"{side}_layers", layers),
            (f"{side}_attention_heads", heads),
        ):
            setattr(args, name, getattr(args, name, value))
