"""One encoder-decoder, whose decoder is prepared for searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from smoe_mt.moe.block import outputs_only
from smoe_mt.search.decoder import PreparedDecoder, State, prepare
from smoe_mt.search.steps.base import Forbid, nothing
from smoe_mt.search.steps.single import SingleModel

Opened = Callable[[], AbstractContextManager[None]]


class PreparedModel:
    """Scores with one model, as ``SingleModel`` does, with fewer operators a step."""

    def __init__(self, model: Any, decoder: PreparedDecoder, routing: Opened = nullcontext) -> None:
        self.model = model
        self.decoder = decoder
        self.routing = routing

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.decoder.embedding.device

    @property
    def longest(self) -> int:
        """What its positions allow."""
        return int(self.model.max_decoder_positions()) - 1

    @contextmanager
    def searching(self, beam: int) -> Iterator[None]:
        """Blocks compute outputs alone."""
        self.model.eval()
        with self.routing(), outputs_only():
            yield

    def start(self, tokens_BS: Tensor, lengths_B: Tensor, beam: int) -> State:
        """Encode the sources."""
        encoded = self.model.encoder(tokens_BS.to(self.device), lengths_B.to(self.device))
        return self.decoder.begin(self.decoder.sources(encoded), beam)

    def again(self, state: State) -> State:
        """The state before the first step, of the same sources."""
        return self.decoder.begin(state.sources, state.beam)

    def log_probs(self, prefixes: Tensor, state: State, forbid: Forbid = nothing) -> Tensor:
        """One step of the decoder; as many as the state lacks, where it is behind."""
        logits_RV = prefixes
        for step in range(state.steps, prefixes.size(2)):
            logits_RV = self.decoder.advance(state, prefixes[:, :, step].flatten())
        return forbid(_log_softmax(logits_RV).view(*prefixes.shape[:2], -1))

    def reorder(self, state: State, rows: Tensor) -> State:
        """Beams change places within their sentences; sentences that have ended leave."""
        if len(rows) < state.rows:
            state.select(rows[:: state.beam] // state.beam)
        state.reorder(rows.view(-1, state.beam) % state.beam)
        return state


def _log_softmax(logits_RV: Tensor) -> Tensor:
    """In float32, in the memory of the logits where they are: a second set of that size costs as much as its sum."""
    if logits_RV.dtype is torch.float32 and not logits_RV.requires_grad:
        return torch.ops.aten._log_softmax.out(logits_RV, -1, False, out=logits_RV)  # type: ignore[no-any-return]
    return torch.log_softmax(logits_RV, dim=-1, dtype=torch.float32)


def scorer_of(model: Any, routing: Opened = nullcontext) -> PreparedModel | SingleModel:
    """Scores of one model: prepared where its decoder is one of those that can be, else by fairseq's decoder.

    routing  opened around every search, another routing than the model's own
    """
    decoder = prepare(model.decoder)
    return SingleModel(model, routing) if decoder is None else PreparedModel(model, decoder, routing)
