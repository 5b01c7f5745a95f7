"""Weights that something else than the optimiser has changed, where it keeps a float32 copy of them for training in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def take_over_changes(optimizer: Any) -> None:
    """Give the optimiser's float32 copies what its parameters have been changed to: before its next step, or the change is lost.

    A number is changed where the copy no longer rounds to it; all others keep the precision of the copy. Nothing is done where
    there are no copies.
    """
    for parameter, copy in _copies(optimizer):
        changed = copy.to(parameter.dtype) != parameter
        copy.copy_(torch.where(changed, parameter.to(copy.dtype), copy))


def _copies(optimizer: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter with its copy, which is a part of one vector on each device if fairseq flattens them (fp16 on GPUs)."""
    copies = getattr(optimizer, "fp32_params", None)
    if copies is None:
        return
    if not isinstance(copies, dict):
        yield from zip(optimizer.fp16_params, copies, strict=True)
        return
    done = dict.fromkeys(copies, 0)
    for parameter in optimizer.fp16_params:
        device, size = parameter.device.index, parameter.numel()
        yield parameter, copies[device][done[device] : done[device] + size].view_as(parameter)
        done[device] += size
