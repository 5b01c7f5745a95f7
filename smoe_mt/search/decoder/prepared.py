"""A whole decoder, prepared once from the weights of fairseq's: what it knows, and a step."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn

from smoe_mt.cuda_recorder import CudaRecorder
from smoe_mt.moe.experts.ffn import FFNs
from smoe_mt.moe.experts.prepacked import PackedWeights
from smoe_mt.moe.int8 import Int8Linear, check_int8
from smoe_mt.moe.linear import PackedLinear
from smoe_mt.search.decoder.caches import Caches, Contents, Sources
from smoe_mt.search.decoder.graphs import CapturedSearch, CapturedSteps, StaticCaches
from smoe_mt.search.decoder.layers import Layer, Norm, activation_of

State = Caches | CapturedSearch
#: Parts that change what a decoder or a layer computes, and are not known here.
UNKNOWN_OF_DECODER = ("quant_noise", "project_in_dim", "layernorm_embedding", "project_out_dim", "adaptive_softmax")
UNKNOWN_OF_LAYER = ("attn_ln", "c_attn", "ffn_layernorm", "w_resid", "cross_self_attention")
UNKNOWN_OF_ATTENTION = ("bias_k", "bias_v", "add_zero_attn", "use_xformers")


class PreparedDecoder:
    """The decoder's weights as a step reads them. Blocks are those of the model itself; all else is made ready once, by ``linear``."""

    def __init__(self, decoder: Any, linear: type[PackedLinear] = PackedLinear) -> None:
        self.embedding = decoder.embed_tokens.weight.detach()
        self.scale = float(decoder.embed_scale)
        self.positions = _positions(decoder)
        self.layers = [Layer(layer, number, linear) for number, layer in enumerate(decoder.layers)]
        self.norm = None if decoder.layer_norm is None else Norm(decoder.layer_norm)
        self.output = linear(decoder.output_projection.weight, decoder.output_projection.bias)
        self.captured = CapturedSteps(self.step, CudaRecorder()) if self.embedding.is_cuda else None

    def begin(self, sources: Sources, beam: int) -> State:
        """The state of a search before its first step."""
        contents = Contents.before(sources, beam)
        return Caches(contents) if self.captured is None else CapturedSearch(self.captured, contents)

    def advance(self, state: State, tokens_R: Tensor) -> Tensor:
        """Logits after one more token of each row of a search; [R, V]."""
        return self.step(tokens_R, state) if isinstance(state, Caches) else state.advance(tokens_R)

    def sources(self, encoded: dict[str, Any]) -> Sources:
        """Keys and values of encoded sources, as fairseq's encoder returns them."""
        encoded_BSD = encoded["encoder_out"][0].transpose(0, 1)
        pairs = torch.stack([layer.cross_attention.pairs(encoded_BSD) for layer in self.layers])
        padding_BS = encoded["encoder_padding_mask"][0]
        if encoded_BSD.device.type == "cpu" and not bool(padding_BS.any()):
            return Sources(pairs, None)
        mask = pairs.new_zeros(padding_BS.shape).masked_fill_(padding_BS, -torch.inf)
        return Sources(pairs, mask[:, None, None])

    def step(self, tokens_R: Tensor, caches: Caches | StaticCaches) -> Tensor:
        """Logits after one more token of each row, int64 [R]; [R, V]."""
        caches.next_step()
        x_RD = F.embedding(tokens_R, self.embedding)
        if self.positions is None:
            x_RD = x_RD * self.scale
        else:
            x_RD = torch.add(caches.position(self.positions), x_RD, alpha=self.scale)
        for layer in self.layers:
            x_RD = layer(x_RD, caches)
        return self.output(x_RD if self.norm is None else self.norm(x_RD))


def _positions(decoder: Any) -> Tensor | None:
    """What is added to the embedding of each token of an output, [P, D]; None: nothing."""
    if decoder.embed_positions is None:
        return None
    weights = getattr(decoder.embed_positions, "weights", None)  # sinusoidal
    weights = decoder.embed_positions.weight if weights is None else weights
    return weights.detach()[decoder.padding_idx + 1 :].to(decoder.embed_tokens.weight.dtype)  # type: ignore[no-any-return]


def unknown_part(decoder: Any) -> str | None:
    """What in a decoder is not known here; None: nothing."""
    if not isinstance(decoder, TransformerDecoderBase):
        return f"a {type(decoder).__name__}"
    parts: list[tuple[Any, tuple[str, ...]]] = [(decoder, UNKNOWN_OF_DECODER)]
    for layer in decoder.layers:
        if getattr(layer, "encoder_attn", None) is None or not hasattr(layer, "self_attn"):
            return f"a {type(layer).__name__}"
        if not hasattr(layer, "block") and activation_of(layer) is None:
            return "its activation"
        parts += [(layer, UNKNOWN_OF_LAYER), (layer.self_attn, UNKNOWN_OF_ATTENTION)]
        parts += [(layer.encoder_attn, UNKNOWN_OF_ATTENTION)]
    for owner, names in parts:
        for name in names:
            value = getattr(owner, name, None)
            if value is not None and value is not False and not (name == "quant_noise" and value == 0):
                return name
    linears = [decoder.output_projection]
    for layer in decoder.layers:
        for attention in (layer.self_attn, layer.encoder_attn):
            linears += [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
    wrong = [layer for layer in linears if not isinstance(layer, nn.Linear)]
    return f"a {type(wrong[0]).__name__}" if wrong else None


_prepared: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], type[PackedLinear], PreparedDecoder]] = (
    WeakKeyDictionary()
)


def prepare(decoder: Any) -> PreparedDecoder | None:
    """The decoder of a model, made ready for searches; kept until its weights or its precision change.

    None for one that is not known here.
    """
    if unknown_part(decoder) is not None:
        return None
    version, linear = _version(decoder), getattr(decoder, "linear", PackedLinear)
    kept = _prepared.get(decoder)
    if kept is None or kept[:2] != (version, linear):
        kept = _prepared[decoder] = version, linear, PreparedDecoder(decoder, linear)
    return kept[2]


def compute_in_int8(model: Any) -> None:
    """From now on searches with this model compute its decoder's and its expert FFNs' products in 8-bit integers.

    Raises:
        UserError: not on this device or processor.
    """
    check_int8(model.decoder.embed_tokens.weight.device)
    model.decoder.linear = Int8Linear
    for module in model.modules():
        if isinstance(module, FFNs):
            module.packed = PackedWeights(Int8Linear)


def computes_in_int8(model: Any) -> bool:
    """Whether `compute_in_int8` was called for this model."""
    return getattr(model.decoder, "linear", PackedLinear) is Int8Linear


def _version(decoder: nn.Module) -> tuple[int, ...]:
    """Changes whenever a parameter does, or where it may have in training."""
    tensors = list(decoder.parameters())
    return getattr(decoder, "times_trained", 0), *(
        n for p in tensors for n in (0 if p.is_inference() else p._version, p.data_ptr())
    )
