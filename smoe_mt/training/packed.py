"""Many small tensors as a few large ones: what a captured step returns, copied out in as many operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Packing:
    """How scalars and vectors of some names lie in packed tensors, one for each type and number of dimensions."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self._groups: dict[tuple[torch.dtype, int], list[str]] = defaultdict(list)
        for name, tensor in named.items():
            self._groups[tensor.dtype, tensor.dim()].append(name)
        self._sizes = {name: tensor.numel() for name, tensor in named.items()}

    def pack(self, named: Mapping[str, Tensor]) -> list[Tensor]:
        """The packed tensors."""
        return [
            (torch.cat if dims else torch.stack)([named[name].detach() for name in names])
            for (_, dims), names in self._groups.items()
        ]

    def unpack(self, packed: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors by name, of a copy of the packed ones."""
        found: dict[str, Tensor] = {}
        for ((_, dims), names), tensor in zip(self._groups.items(), packed, strict=True):
            copy = tensor.clone()
            found |= zip(names, copy.split([self._sizes[name] for name in names]) if dims else copy.unbind())
        return found
