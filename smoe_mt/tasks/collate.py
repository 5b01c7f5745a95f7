"""Sentences of any directions -> one padded batch, in the form that fairseq's models and criterions expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smoe_mt.tasks.shapes import BatchShape, smallest


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens."""

    pad: int
    eos: int


@dataclass(frozen=True)
class Sentence:
    """One sentence pair before batching."""

    id: int
    #: Place of the direction in task.directions.
    direction: int
    #: The target language's tag, which goes in front of the source.
    tag: int
    source: np.ndarray  # int[source tokens], </s> last
    target: np.ndarray  # int[target tokens], </s> last
    #: The raw target, where validation is to score a translation of this sentence.
    reference: str | None = None


def collate(sentences: Sequence[Sentence], special: Special, shapes: Sequence[BatchShape] = ()) -> dict[str, Any]:
    """B sentences -> a fairseq sample, padded on the right; {} for none (fairseq's mark of an empty shard).

    `net_input.src_tokens` [B, S]: tag, pieces, </s>; `net_input.src_lengths` [B]; `net_input.prev_output_tokens` [B, T]:
    </s>, then the target without its </s>; `target` [B, T]; `direction` [B]; `id` [sentences]; `ntokens`: target tokens;
    `nsentences`; `references`: where any sentence has one, a list of B strings or None.

    With `shapes`, B, S and T are those of the smallest one that holds the batch: rows of nothing but padding follow the
    sentences (`src_lengths` and `direction` 0), and count nowhere.
    """
    if not sentences:
        return {}
    n = len(sentences)
    source_lengths = [len(sentence.source) + 1 for sentence in sentences]
    target_lengths = [len(sentence.target) for sentence in sentences]
    own = BatchShape(n, max(source_lengths), max(target_lengths))
    B, S, T = smallest(shapes, *own) or own
    source = np.full((B, S), special.pad, dtype=np.int64)
    target = np.full((B, T), special.pad, dtype=np.int64)
    previous = np.full((B, T), special.pad, dtype=np.int64)
    previous[:n, 0] = special.eos
    for row, sentence in enumerate(sentences):
        source[row, 0] = sentence.tag
        source[row, 1 : source_lengths[row]] = sentence.source
        target[row, : target_lengths[row]] = sentence.target
        previous[row, 1 : target_lengths[row]] = sentence.target[:-1]
    sample: dict[str, Any] = {
        "id": torch.tensor([sentence.id for sentence in sentences]),
        "nsentences": n,
        "ntokens": sum(target_lengths),
        "net_input": {
            "src_tokens": torch.from_numpy(source),
            "src_lengths": torch.tensor(source_lengths + [0] * (B - n)),
            "prev_output_tokens": torch.from_numpy(previous),
        },
        "target": torch.from_numpy(target),
        "direction": torch.tensor([sentence.direction for sentence in sentences] + [0] * (B - n)),
    }
    references = [sentence.reference for sentence in sentences]
    if any(reference is not None for reference in references):
        sample["references"] = references
    return sample
