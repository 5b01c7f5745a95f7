"""Compares the size of a model with its file: a model with more parameters than the file has numbers is not built."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from smoe_mt.allowed.config import check_model
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.moe import SYSTEMS, BlockPlace
from smoe_mt.moe.names import SIDES
from smoe_mt.moe.shared import with_shared_experts
from smoe_mt.moe.structure import places_by_side


def check_sizes(model: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """UserError for settings of a larger model than the file has numbers for: it would be allocated before it is filled.

    `model`: settings of ``smoe_transformer``, each in its range.
    """
    described, stored = fewest_parameters(model, path), stored_numbers(weights)
    if described > stored:
        raise UserError(
            f"{path}: its settings describe a model of at least {described:,} parameters, and it holds {stored:,} numbers; "
            "take another checkpoint"
        )


def fewest_parameters(model: Mapping[str, Any], path: Path) -> int:
    """A lower bound of the model's parameters: matrices of its layers, and its blocks, which are built without their weights.

    UserError for settings that make no blocks.
    """
    from smoe_mt.models.config import SMoETransformerConfig

    full = dataclasses.asdict(SMoETransformerConfig()) | dict(model)
    try:
        check_model(full)
        places = places_by_side(full)
    except UserError as error:
        raise _no_model(path, error) from None
    total = 0
    for side in SIDES:
        dim, ffn_dim, layers = (full[f"{side}_{name}"] for name in ("embed_dim", "ffn_embed_dim", "layers"))
        attention = 4 * dim * dim
        if side == "decoder":
            attention += 2 * dim * dim + 2 * dim * full["encoder_embed_dim"]
        total += layers * attention + (layers - len(places[side])) * 2 * dim * ffn_dim
        for place, blocks in Counter(dataclasses.replace(each, layer=1) for each in places[side]).items():
            total += blocks * _parameters_of_block(full, place, path)
    return total


def _parameters_of_block(settings: Mapping[str, Any], place: BlockPlace, path: Path) -> int:
    cfg = SimpleNamespace(**settings)
    try:
        with torch.device("meta"):
            block = with_shared_experts(cfg, SYSTEMS[str(settings["moe"])].build(cfg, place), place.embed_dim)
    except ValueError as error:
        raise _no_model(path, error) from None
    return sum(parameter.numel() for parameter in block.parameters())


def _no_model(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: its settings make no model ({first_sentence(error)}); take another checkpoint")


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
