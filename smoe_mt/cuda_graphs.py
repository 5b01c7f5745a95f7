"""Capture of a function as a CUDA graph, as all of this project's captures are made."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def captured(run: Callable[[], T], pool: Any) -> tuple[T, Callable[[], None]]:
    """What ``run`` returns, in tensors that are computed by each call of the second result alone, where they lie.

    ``pool`` is the memory that graphs share of which one runs at a time. Kernels must be compiled, so ``run`` has run before with
    such shapes. Other threads may use the GPU meanwhile. Random numbers go on from the generator's state at each replay.

    Raises:
        RuntimeError: a function that cannot be captured, such as one that reads values back; or no memory.
    """
    graph = torch.cuda.CUDAGraph()
    gc.collect()  # a graph or a kernel that is freed during a capture makes it invalid
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outputs = run()
    finally:
        if collects:
            gc.enable()
    return outputs, graph.replay
