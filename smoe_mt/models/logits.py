"""The projection to logits, into memory that each batch uses again.

In a narrow model the logits [N, V] of a batch are larger than all its other tensors together, and of another size in each batch.
Allocated anew they leave gaps that the next ones do not fit in, and a training's heap grows to several times what it uses.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROWTH = 1.25  # of what a batch needs; pages that no batch has touched take no memory


class LogitsMemory:
    """Memory outside of the heap for the logits of one batch, on a CPU.

    Logits without a gradient are valid until the next ones are computed: this is for a training, whose losses are all that is
    kept of a batch. While a graph still has some, the next ones (of a second pass of the same model) get memory of their own.
    """

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._claim: Callable[[], _Claim | None] = lambda: None

    def __reduce__(self) -> tuple[type[LogitsMemory], tuple[()]]:
        """A copy has memory of its own, and none is written to a file."""
        return LogitsMemory, ()

    def project(self, features: Tensor, weight_VD: Tensor) -> Tensor:
        """features [..., D] -> logits [..., V], those of ``F.linear``. Under autocast in its precision."""
        if self._claim() is not None:
            return F.linear(features, weight_VD)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            features, weight_VD = features.to(dtype), weight_VD.to(dtype)
        features_ND = features.reshape(-1, features.size(-1))
        N, V, claim = features_ND.size(0), weight_VD.size(0), _Claim()
        room_NV = self._room(N, V, weight_VD.dtype)
        self._claim = weakref.ref(claim)
        return _Projection.apply(features_ND, weight_VD, room_NV, claim).view(*features.shape[:-1], V)

    def _room(self, N: int, V: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised [N, V]; all rooms share memory, and autograd knows that."""
        needed = N * V * dtype.itemsize
        if needed > self._bytes.numel():
            self._bytes = torch.empty(0, dtype=torch.uint8)  # the old ones go first
            with torch.inference_mode(False):  # else no backward pass could keep what is written there
                self._bytes = _mapped(int(GROWTH * needed))
        return self._bytes[:needed].view(dtype).view(N, V)


def _mapped(size: int) -> Tensor:
    """uint8 [size], in large pages where the system has them."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class _Claim:
    """Lives as long as the graph that may still ask for logits."""


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_ND: Tensor, weight_VD: Tensor, room_NV: Tensor, claim: _Claim) -> Tensor:
        ctx.save_for_backward(features_ND, weight_VD)
        ctx.claim = claim
        torch.mm(features_ND, weight_VD.t(), out=room_NV)
        return room_NV.detach()

    @staticmethod
    def backward(ctx: Any, grad_NV: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        features_ND, weight_VD = ctx.saved_tensors
        of_features, of_weight, *_ = ctx.needs_input_grad
        return (
            grad_NV @ weight_VD if of_features else None,
            grad_NV.t() @ features_ND if of_weight else None,
            None,
            None,
        )
