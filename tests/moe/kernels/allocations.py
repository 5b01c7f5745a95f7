"""How much memory a computation takes at its peak, counted by the sizes of its tensors, on any machine."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BLOCK = 512  # bytes; a CUDA allocation is a multiple of it


class Allocations(TorchDispatchMode):
    """While open: ``peak``, the most bytes that tensors made meanwhile held at once; those of ``known`` are not counted."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen = {_storage(tensor) for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor) and _storage(tensor) not in self._seen:
                self._count(tensor)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _storage(tensor)
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._seen.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.held -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
