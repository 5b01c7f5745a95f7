"""What a search asks for at every step. A new way to score the next token is a class with these methods."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

#: Puts the scores of tokens that must not come, float32 [B, K, V], to -inf, in place, and returns them.
Forbid = Callable[[Tensor], Tensor]


def nothing(log_probs: Tensor) -> Tensor:
    """Forbids nothing."""
    return log_probs


class StepScorer(Protocol):
    """Scores of the next token, for B sentences of K beams each. What it remembers between steps is its `state`, which a search
    hands back to it and does not look into.
    """

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def longest(self) -> int:
        """The longest output that it can score, in tokens."""
        ...

    def searching(self, beam: int) -> AbstractContextManager[None]:
        """Around a search with K = `beam`."""
        ...

    def start(self, tokens_BS: Tensor, lengths_B: Tensor, beam: int) -> Any:
        """Read the sources, int64 [B, source tokens], padded at the end; returns the state before the first step."""
        ...

    def log_probs(self, prefixes: Tensor, state: Any, forbid: Forbid = nothing) -> Tensor:
        """Log-probabilities of the next token after `prefixes`, int64 [B, K, tokens so far]: float32 [B, K, V], the caller's to
        change. What `forbid` forbids has -inf; where it leaves any token, at least one has more than that.
        """
        ...

    def reorder(self, state: Any, rows: Tensor) -> Any:
        """The state in which row i of the next step goes on from row ``rows[i]`` of this one (B * K rows, sentence by sentence).

        A row goes on from one of its own sentence; sentences that have ended are left out.
        """
        ...
