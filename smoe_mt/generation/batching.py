"""Which sentences go through the model together."""

from __future__ import annotations

from collections.abc import Sequence


def batch_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of `lengths`, longest first, cut into batches of at most `max_tokens` tokens, padding counted.

    Longest first, so that a machine with too little memory says so at once. Sentences of equal length keep their order. A
    sentence longer than `max_tokens` gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
