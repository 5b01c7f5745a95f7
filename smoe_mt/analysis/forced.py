"""Teacher-forced passes: the model reads sources and references of a direction, batch by batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from smoe_mt.generation.batching import batch_by_tokens
from smoe_mt.tasks.collate import Sentence, collate
from smoe_mt.tasks.dataset import DirectionText

WINDOW = 2**15  # sentences that are sorted by length together; no more of a split than this is looked at at a time


@dataclass(frozen=True)
class ForcedBatch:
    """A batch and where it comes from.

    lines      line of each sentence in its split, [B]
    net_input  src_tokens [B, S] (tag, pieces, </s>), src_lengths [B], prev_output_tokens [B, T] (</s>, pieces)
    target     what the decoder is to predict (pieces, </s>), padded; int64 [B, T]
    """

    lines: tuple[int, ...]
    net_input: dict[str, Tensor]
    target: Tensor

    def tokens(self, side: str) -> Tensor:
        """What encoder or decoder reads; int64 [B, S] or [B, T]."""
        return self.net_input["src_tokens" if side == "encoder" else "prev_output_tokens"]


def direction_texts(task: Any, split: str, directions: tuple[str, ...]) -> list[DirectionText]:
    """The binarised text of some directions of a split, mapped and not read. UserError for files that are not whole."""
    task.load_dataset(split)
    texts = {text.name: text for text in task.datasets[split].texts}
    return [texts[direction] for direction in directions]


def forced_batches(
    task: Any, model: Any, text: DirectionText, limit: int | None, max_tokens: int
) -> Iterator[ForcedBatch]:
    """The first `limit` sentences of a direction (None: all), B x max(S, T) within `max_tokens`.

    Sides longer than the model's positions are cut to them.
    """
    longest_source, longest_target = model.max_positions()
    device = next(model.parameters()).device
    total = len(text) if limit is None else min(limit, len(text))
    for first in range(0, total, WINDOW):
        window = slice(first, min(first + WINDOW, total))
        sources = np.minimum(text.source.sizes[window] + 1, longest_source)
        lengths = np.maximum(sources, np.minimum(text.target.sizes[window], longest_target))
        for batch in batch_by_tokens(lengths.tolist(), max_tokens):
            lines = tuple(first + index for index in batch)
            sentences = [_sentence(text, line, longest_source, longest_target) for line in lines]
            sample = collate(sentences, task.special)
            net_input = {name: tensor.to(device) for name, tensor in sample["net_input"].items()}
            yield ForcedBatch(lines, net_input, sample["target"].to(device))


def _sentence(text: DirectionText, line: int, longest_source: int, longest_target: int) -> Sentence:
    source, target = text.source[line], text.target[line]
    return Sentence(line, text.number, text.tag, _cut(source, longest_source - 1), _cut(target, longest_target))


def _cut(tokens: np.ndarray, longest: int) -> np.ndarray:
    """At most `longest` tokens, </s> last."""
    return tokens if len(tokens) <= longest else np.append(tokens[: longest - 1], tokens[-1])
