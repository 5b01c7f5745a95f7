"""A model without a task or a data folder: of a vocabulary it asks for the size alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fairseq.data import Dictionary

from smoe_mt.models.smoe_transformer import SMoETransformerModel


def dictionary_of(size: int) -> Dictionary:
    """So many entries, whose names say nothing."""
    dictionary = Dictionary()
    for number in range(len(dictionary), size):
        dictionary.add_symbol(str(number))
    return dictionary


def build_standalone(model_cfg: Any, vocabulary: int) -> SMoETransformerModel:
    """The model with fresh weights. UserError for settings that make no model."""
    dictionary = dictionary_of(vocabulary)
    task: Any = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return SMoETransformerModel.build_model(model_cfg, task)
