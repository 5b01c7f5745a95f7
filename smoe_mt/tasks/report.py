"""Per-direction numbers as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoe_mt.tasks.dataset import ManyToManyDataset
from smoe_mt.tasks.sampling import draws_per_direction
from smoe_mt.text_table import aligned

MOST_ROWS = 40  # of more directions than this, only the mean is written out (TensorBoard has all)


def sampling_table(split: str, dataset: ManyToManyDataset) -> str:
    """What a split holds, and for training what an epoch draws of each direction."""
    sizes = [len(text) for text in dataset.texts]
    head = f"{split}: {len(dataset):,} sentence pairs in {len(sizes)} directions"
    if dataset.sampling is None or len(sizes) > MOST_ROWS:
        return head
    total = dataset.sampling.epoch_pairs or sum(sizes)
    draws = draws_per_direction(sizes, dataset.sampling.temperature, total)
    width = max(len(text.name) for text in dataset.texts)
    rows = [
        f"  {text.name:<{width}}  {size:>11,} pairs {count:>11,} draws an epoch ({count / total:6.2%})"
        for text, size, count in zip(dataset.texts, sizes, draws)
    ]
    return "\n".join([f"{head}, sampling temperature {dataset.sampling.temperature:g}", *rows])


def validation_table(stats: Mapping[str, Any], directions: Sequence[str]) -> str:
    """Statistics named `what/direction` as one table, a row for each direction; "" where there are none."""
    found = {key.partition("/")[0]: None for key in stats if key.partition("/")[2] in directions}
    columns = list(found)
    if not columns or len(directions) > MOST_ROWS:
        return ""
    rows = [["", *columns]]
    for direction in sorted(directions):
        values = [stats.get(f"{column}/{direction}") for column in columns]
        rows.append([direction, *("-" if value is None else f"{float(value):.2f}" for value in values)])
    return "\n".join(["validation per direction", *(f"  {line}" for line in aligned(rows))])
