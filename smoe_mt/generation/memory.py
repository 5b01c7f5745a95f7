"""How much memory a search takes, to limit the number of searches that run at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smoe_mt.search.beam import Decoding

READINGS = 3  # of the logits that are held at a time: product, softmax, and what the allocator has not given back
GROWTH = 2  # target tokens for a source token, before most sentences have ended; and the caches before and after a reordering


def bytes_to_search(model: Any, batches: Sequence[tuple[int, int]], decoding: Decoding) -> int:
    """About what a process takes, besides the weights that it shares, to search the greediest of `batches`.

    `batches`: sentences and source tokens of the longest, of each. Counts the logits of a step, keys and values of the decoder,
    and the packed experts (``moe.packed``), which take as much as the weights at most.
    """
    decoder, element = model.decoder, next(model.parameters()).element_size()
    per_token = 2 * len(decoder.layers) * decoder.embed_dim  # keys and values
    passes = 1 if decoding.contrast is None else 2
    values = (
        passes * sentences * decoding.beam * (READINGS * len(decoder.dictionary) + GROWTH**2 * length * per_token)
        for sentences, length in batches
    )
    weights = sum(parameter.numel() for parameter in model.parameters())
    return element * (weights + max(values, default=0))
