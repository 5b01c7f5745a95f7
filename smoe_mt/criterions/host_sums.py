"""Sums over logging outputs, read from the device at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def host_sums(logging_outputs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of each key over the outputs that have it: a number, or a list of numbers where the values are vectors.

    Tensors travel together, and all are added up in double precision. What is neither tensor nor number is left out.
    """
    pairs = [(key, value) for log in logging_outputs for key, value in log.items()]
    read = iter(_read([value for _, value in pairs if torch.is_tensor(value)]))
    values: dict[str, list[Any]] = defaultdict(list)
    for key, value in pairs:
        if torch.is_tensor(value):
            values[key].append(next(read))
        elif isinstance(value, int | float):
            values[key].append(value)
    return {
        key: [sum(row) for row in zip(*ones)] if isinstance(ones[0], list) else sum(ones)
        for key, ones in values.items()
    }


def _read(tensors: Sequence[Tensor]) -> list[Any]:
    """The values, of 0-dim tensors as numbers. One transfer from each device."""
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, one in enumerate(tensors):
        alike[one.device, one.dtype].append(index)
    on_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    order: dict[torch.device, list[int]] = defaultdict(list)
    for (device, _), indices in alike.items():
        on_device[device].append(torch.cat([tensors[index].detach().reshape(-1) for index in indices]).double())
        order[device] += indices
    found: list[Any] = [None] * len(tensors)
    for device, parts in on_device.items():
        flat, start = torch.cat(parts).tolist(), 0
        for index in order[device]:
            end = start + tensors[index].numel()
            found[index] = flat[start:end] if tensors[index].dim() else flat[start]
            start = end
    return found
