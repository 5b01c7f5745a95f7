"""Teacher-forced passes: the model reads sources and references of a direction, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.generation.batching import batch_by_tokens


def forced_batches(task: Any, model: Any, text: Corpus, max_tokens: int) -> Iterator[dict[str, Tensor]]:
    """`net_input` of each batch of `text`: src_tokens [B, S] (tag, pieces, </s>), src_lengths [B], prev_output_tokens [B, T]
    (</s>, pieces: as many as the reference has with its </s>).

    Sides longer than the model's positions are cut to them. B x max(S, T) stays within `max_tokens`.
    """
    source_language, target_language = text.direction.split("-")
    longest_source, longest_target = model.max_positions()
    eos, pad = task.dictionary.eos(), task.dictionary.pad()
    sources = [_cut(task.encode(line, target_language), longest_source, eos) for line in text.sources]
    # Encoded as if it were a source, the reference has a tag in front, where the decoder reads </s>.
    targets = [_behind_end(task.encode(line, source_language)[:-1], longest_target, eos) for line in text.references]
    lengths = [max(len(source), len(target)) for source, target in zip(sources, targets)]
    device = next(model.parameters()).device
    for batch in batch_by_tokens(lengths, max_tokens):
        yield {
            "src_tokens": _padded([sources[index] for index in batch], pad).to(device),
            "src_lengths": torch.tensor([len(sources[index]) for index in batch], device=device),
            "prev_output_tokens": _padded([targets[index] for index in batch], pad).to(device),
        }


def _cut(tokens: Tensor, longest: int, eos: int) -> Tensor:
    if len(tokens) <= longest:
        return tokens
    kept = tokens[:longest].clone()
    kept[-1] = eos
    return kept


def _behind_end(tagged: Tensor, longest: int, eos: int) -> Tensor:
    tokens = tagged[:longest].clone()
    tokens[0] = eos
    return tokens


def _padded(rows: list[Tensor], pad: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
