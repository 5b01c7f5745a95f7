"""One encoder-decoder, by fairseq's own decoder: what a prepared one is compared with, and what unknown models are searched by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smoe_mt.search.steps.base import Forbid, nothing


@dataclass
class ModelState:
    """The encoded sources, a row for each beam, and the decoder's keys and values."""

    encoded: Any
    rows: int
    incremental: dict[str, Any] = field(default_factory=dict)


class SingleModel:
    """Scores with one model; `routing`: opened around every search, another routing than the model's own."""

    def __init__(self, model: Any, routing: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.model = model
        self.routing = routing

    @property
    def device(self) -> torch.device:
        """The model's."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def longest(self) -> int:
        """What its positions allow."""
        return int(self.model.max_decoder_positions()) - 1

    @contextmanager
    def searching(self, beam: int) -> Iterator[None]:
        """Cross-attention is told that `beam` rows share one source, so that its keys and values are kept once.

        Said both before and after each search: fairseq would leave the last beam size of more than 1 in the model.
        """
        self.model.eval()
        self.model.decoder.set_beam_size(beam)
        try:
            with self.routing():
                yield
        finally:
            self.model.decoder.set_beam_size(1)

    def start(self, tokens_BS: Tensor, lengths_B: Tensor, beam: int) -> ModelState:
        """Encode the sources."""
        encoded = self.model.encoder(tokens_BS.to(self.device), lengths_B.to(self.device))
        rows = torch.arange(len(lengths_B), device=self.device).repeat_interleave(beam)
        return ModelState(self.model.encoder.reorder_encoder_out(encoded, rows), len(rows))

    def again(self, state: ModelState) -> ModelState:
        """The state before the first step, of the same sources."""
        return ModelState(state.encoded, state.rows)

    def log_probs(self, prefixes: Tensor, state: ModelState, forbid: Forbid = nothing) -> Tensor:
        """A step of the decoder."""
        output, _ = self.model.decoder(
            prefixes.flatten(0, 1), encoder_out=state.encoded, incremental_state=state.incremental
        )
        log_probs = torch.log_softmax(output[:, -1], dim=-1, dtype=torch.float32)
        return forbid(log_probs.view(*prefixes.shape[:2], -1))

    def reorder(self, state: ModelState, rows: Tensor) -> ModelState:
        """The encoded sources stay as they are until a sentence has ended: beams of one sentence share its source."""
        self.model.decoder.reorder_incremental_state_scripting(state.incremental, rows)
        if len(rows) < state.rows:
            state.encoded = self.model.encoder.reorder_encoder_out(state.encoded, rows)
            state.rows = len(rows)
        return state
