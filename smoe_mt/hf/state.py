"""fairseq's incremental state where transformers expects a cache of keys and values."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import GenerationMixin

#: What transformers calls a cache: its name has changed within version 5.
_NAMES = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in _NAMES else "past_key_values"


class DecoderState:
    """Keys and values of a decoder for each row, after ``length`` tokens."""

    is_compileable = False
    is_linear = (True,)  # transformers need not cut what it hands over: `prepare_inputs_for_generation` does

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.states: dict[str, Any] = {}
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that it knows."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on from row ``beam_idx[i]``."""
        self.decoder.reorder_incremental_state_scripting(self.states, beam_idx)
