"""Captures work on a GPU as CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
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

    def forget(self) -> None:
        """Nothing that was recorded will be replayed again."""
        ...


class CudaRecorder:
    """As CUDA graphs, of one pool of memory: they are replayed one at a time, and nothing of one is read after the next."""

    device = "cuda"

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """See `Recorder`. A pool whose graphs are all gone takes no new ones."""
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """See `Recorder`. Kernels must be compiled, so `run` has run before with such shapes; other threads may use the GPU."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # a graph or a kernel that is freed during a capture makes it invalid
        collects = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = run()
        except RuntimeError:
            self.forget()  # it may have been the pool's first
            raise
        finally:
            if collects:
                gc.enable()
        return outputs, graph.replay
