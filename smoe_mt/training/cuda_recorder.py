"""Captures work on a GPU as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class Recorder(Protocol):
    """Makes of a function something that computes the same again, without the host."""

    #: Type of the device that it records.
    device: str

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """Record `run`, which nothing is computed of yet: (what it returns; a function that computes all of it anew).

        Whatever `run` reads and writes stays where it is: inputs are copied into the tensors that it used, weights and gradients
        change in place. What it returns is valid until another recording of this recorder is replayed.

        Raises:
            RuntimeError: what cannot be recorded, or memory that ran out.
        """
        ...


class CudaRecorder:
    """As CUDA graphs, of one pool of memory: they are replayed one at a time, and nothing of one is read after the next."""

    device = "cuda"

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """See `Recorder`. Loaders' threads may use the GPU meanwhile; random numbers continue from the generator's state."""
        graph = torch.cuda.CUDAGraph()
        with (
            _no_collection(),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outputs = run()
        return outputs, graph.replay


@contextmanager
def _no_collection() -> Iterator[None]:
    """A graph or a kernel that is freed meanwhile makes a capture invalid."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
