"""A recorder for CPUs: its recordings run the function again. What a CUDA graph does, as far as the code around it can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Rerun:
    """Recording leaves gradients, buffers and the generator as they were; replays write to the tensors that were returned first.

    `fail`: raised in place of the recording of this number (from 0).
    """

    device = "cpu"

    def __init__(self, model: nn.Module, fail: dict[int, Exception] | None = None) -> None:
        self._model = model
        self._fail = fail or {}
        self.recordings = 0
        self.replays = 0
        self.forgotten = 0

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        number, self.recordings = self.recordings, self.recordings + 1
        if number in self._fail:
            raise self._fail[number]
        state = torch.get_rng_state()
        kept = [*self._model.buffers(), *(p.grad for p in self._model.parameters() if p.grad is not None)]
        before = [tensor.clone() for tensor in kept]
        try:
            outputs = run()
        finally:
            for tensor, value in zip(kept, before, strict=True):
                tensor.copy_(value)
            torch.set_rng_state(state)
        for output in outputs:
            output.fill_(-1)

        def replay() -> None:
            self.replays += 1
            for output, value in zip(outputs, run(), strict=True):
                output.copy_(value)

        return outputs, replay

    def forget(self) -> None:
        self.forgotten += 1
