"""The size of a model against what a file holds: a model that the file could not fill is not built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from smoe_mt.errors import UserError


def check_sizes(model: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """UserError for settings of a larger model than the file has numbers for: it would be allocated before it is filled.

    `model`: settings of ``smoe_transformer``, each in its range.
    """
    described, stored = fewest_parameters(model), stored_numbers(weights)
    if described > stored:
        raise UserError(
            f"{path}: its settings describe a model of at least {described:,} parameters, and it holds {stored:,} numbers; "
            "take another checkpoint"
        )


def fewest_parameters(model: Mapping[str, Any]) -> int:
    """A lower bound of the model's parameters: matrices of its layers, without embeddings, norms and biases."""
    from smoe_mt.models.config import HAS_STRATA, SMoETransformerConfig
    from smoe_mt.moe import parse_strata

    full = dataclasses.asdict(SMoETransformerConfig()) | dict(model)
    stratified = full["moe"] == "stratified"
    strata = parse_strata(full["strata"]) if full["moe"] in HAS_STRATA else (full["num_experts"],)
    visible = sum(sum(strata[i:]) for i in range(len(strata))) if stratified else sum(strata)
    total = 0
    for side in ("encoder", "decoder"):
        dim, ffn_dim, layers = (full[f"{side}_{name}"] for name in ("embed_dim", "ffn_embed_dim", "layers"))
        blocks = 0 if full["moe"] == "none" else layers // full["moe_freq"]
        attention = 4 * dim * dim
        if side == "decoder":
            attention += 2 * dim * dim + 2 * dim * full["encoder_embed_dim"]
        experts = sum(strata) * 2 * dim * ffn_dim + visible * dim
        total += layers * attention + (layers - blocks) * 2 * dim * ffn_dim + blocks * experts
    return total


def stored_numbers(weights: Mapping[str, Tensor]) -> int:
    """How many numbers lie behind these tensors, shared ones counted once; of those on "meta" what their shapes say."""
    seen: set[int] = set()
    total = 0
    for tensor in weights.values():
        if tensor.is_meta:
            total += math.prod(tensor.shape)
            continue
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes() // tensor.element_size()
    return total
