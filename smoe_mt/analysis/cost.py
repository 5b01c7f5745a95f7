"""What a model costs: its parameters, and the FLOPs of a token's forward pass (paper: section 5), without its weights.

FLOPs are counted as Kaplan et al. (2020) do, two for each weight that a token is multiplied with, for one token that passes
the encoder and one that passes the decoder:

    projections of attention   2 * 4 d^2 a module: self-attention of each layer, and attention to the source in the decoder
    FFN                        2 * 2 d F a layer; a MoE block has as many of them as a token is expected to pass
    output projection          2 V d
    attention itself           4 n d a module, for a context of n tokens: products with keys and with values

Norms, biases, softmax, gates and the look-up of embeddings are left out: below 1% together.

FFNs of a block: what its system expects under uniform routing (``System.rows_per_token``): 1 for Switch, k for k choices; one
more, the shared one, with conditional routing; k for each layer of a stack; k for each visit of a stratified block. There a
token at gate i makes V(i) = 1 + sum_g P(i -> g) V(g) visits, where g runs over the later gates and P is the share of the visible
experts that lead there. Experts of another size count for a part of an FFN, or for more. Shared experts are passed once a block.

The context is what the paper does not say. `FITTED_CONTEXT` makes the dense rows of its two tables come out best (0.5% apart
from both); it is longer than sentences are, so other things must be in the paper's constant part. Differences between the
rows of a table do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smoe_mt.errors import UserError
from smoe_mt.models.sizes import BankUse, Units, banks_of, shared_units_of
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.models.standalone import build_standalone
from smoe_mt.moe import BlockPlace

FITTED_CONTEXT = 1246


@dataclass(frozen=True)
class Term:
    """One line of a sum, and where it comes from."""

    name: str
    formula: str
    amount: float


@dataclass(frozen=True)
class Cost:
    """Parameters and FLOPs/token of a model, each as a sum.

    encoder_flops       the encoder's part of the latter
    trained_parameters  those that training changes: all of them but for ``train_only``
    """

    parameters: tuple[Term, ...]
    flops: tuple[Term, ...]
    encoder_flops: float
    trained_parameters: int

    @property
    def total_parameters(self) -> int:
        """Weights, shared ones once."""
        return round(sum(term.amount for term in self.parameters))

    @property
    def flops_per_token(self) -> int:
        """FLOPs of the forward pass."""
        return round(sum(term.amount for term in self.flops))


def cost_of(model_cfg: Any, vocabulary: int, context: int = FITTED_CONTEXT) -> Cost:
    """The cost of a configuration with `vocabulary` dictionary entries, under uniform routing, without its weights.

    Raises:
        UserError: settings that make no model, or encoder and decoder of different widths.
    """
    return cost_of_model(skeleton(model_cfg, vocabulary), vocabulary, context)


def cost_of_model(
    model: SMoETransformerModel, vocabulary: int, context: int = FITTED_CONTEXT, units: Units | None = None
) -> Cost:
    """The cost of a model; `units` measured ones (``Routing.units``), None for uniform routing.

    Raises:
        UserError: encoder and decoder of different widths.
    """
    cfg = model.cfg
    if cfg.encoder.embed_dim != cfg.decoder.embed_dim:
        raise UserError("FLOPs are counted for encoder and decoder of one embedding dimension; these differ")
    flops = _flops(model, vocabulary, context, units)
    d, layers = cfg.encoder.embed_dim, cfg.encoder.layers
    encoder = layers * (8 * d * d + 4 * context * d) + sum(term.amount for term in flops if "encoder" in term.name)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Cost(_parameters(model), flops, encoder, trained)


def _flops(model: SMoETransformerModel, vocabulary: int, context: int, units: Units | None) -> tuple[Term, ...]:
    cfg, terms = model.cfg, []
    d = cfg.encoder.embed_dim
    modules = {"encoder": 1, "decoder": 2}
    attentions = sum(modules[side] * getattr(cfg, side).layers for side in modules)
    terms.append(Term("projections of attention", f"{attentions} x 2 x 4 d^2", attentions * 8 * d * d))
    for side, blocks in banks_of(model).items():
        layers, ffn_dim = getattr(cfg, side).layers, getattr(cfg, side).ffn_embed_dim
        one = 4 * d * ffn_dim
        if len(blocks) < layers:
            number = layers - len(blocks)
            terms.append(Term(f"{side}: dense FFNs", f"{number} x 2 x 2 d F", number * one))
        if blocks:
            measured = list(units[side]) if units else [None] * len(blocks)
            beside = shared_units_of(model)[side]
            amount = sum(
                _block_flops(model, place, block, None if each is None else each - shared) + 4 * d * shared
                for place, block, each, shared in zip(cfg.places[side], blocks, measured, beside, strict=True)
            )
            formula = (
                f"{len(blocks)} block{'s' * (len(blocks) != 1)} x {amount / one / len(blocks):.4g} FFNs x 2 x 2 d F"
            )
            terms.append(Term(f"{side}: MoE blocks", formula, amount))
    terms.append(Term("output projection", "2 V d", 2 * vocabulary * d))
    terms.append(Term("attention itself", f"{attentions} x 4 n d, n = {context}", attentions * 4 * context * d))
    return tuple(terms)


def _block_flops(
    model: SMoETransformerModel, place: BlockPlace, banks: Sequence[BankUse], units: float | None
) -> float:
    """Of a token in a block; `units`: hidden units measured, each with its two products."""
    system = model.system
    assert system is not None
    sizes = [size for use in banks for size in use.bank.hidden_sizes]
    rows = sum(sum(use.rows) for use in banks) if units is None else units * len(sizes) / sum(sizes)
    shared = system.dense_ffns_of(model.cfg, place, rows) * 4 * place.embed_dim * place.ffn_dim
    if units is None:
        return shared + sum(use.flops for use in banks)
    return shared + units * sum(sum(use.bank.flops_per_row()) for use in banks) / sum(sizes)


KINDS = {  # name -> (what is in it, whether a parameter of this name is)
    "embedding": ("V d, of all languages, for both sides and the output", lambda name: "embed_tokens" in name),
    "attention": ("4 d^2 a module, biases", lambda name: "attn." in name),
    "experts": ("2 d F an expert, biases", lambda name: ".experts." in name),
    "gates": ("E_i d a gate", lambda name: ".gate." in name or ".gates." in name or ".mix." in name),
    "projections": ("2 d^2 a block, biases", lambda name: ".head." in name or ".merge." in name),
    "FFNs": ("2 d F an FFN, biases", lambda name: ".fc1." in name or ".fc2." in name),
    "norms": ("2 d a norm", lambda name: True),
}


def _parameters(model: nn.Module) -> tuple[Term, ...]:
    counts = dict.fromkeys(KINDS, 0)
    for name, weight in model.named_parameters():
        counts[next(kind for kind, (_, holds) in KINDS.items() if holds(name))] += weight.numel()
    return tuple(Term(kind, KINDS[kind][0], count) for kind, count in counts.items() if count)


def skeleton(model_cfg: Any, vocabulary: int) -> SMoETransformerModel:
    """The model on torch's meta device: all shapes and no weights. UserError for settings that make no model."""
    with torch.device("meta"):
        return build_standalone(model_cfg, vocabulary)
