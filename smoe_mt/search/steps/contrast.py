"""Self-contrast (SCMoE; Shi et al. 2024, arXiv 2405.14507): a model's own routing against a weaker one of the same weights.

    z = (1 + beta) z_strong - beta z_weak   on V_valid = {i: z_strong,i >= log(alpha) + max z_strong},   -inf elsewhere

The weak pass sends each token to its k-th best expert alone, with weight 1. Both passes read the same prefix, each with keys and
values of its own. The paper decodes greedily and samples; for beam search the scores are log-softmax of z over V_valid.

Where the search forbids tokens (a prefix, the longest output), V_valid is that of the tokens that it allows, and the sum of
the softmax stays that of all tokens: a search never loses its last beam, and a token that is forced on it has its own score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoe_mt.search.steps.base import Forbid, nothing
from smoe_mt.search.steps.prepared import PreparedModel
from smoe_mt.search.steps.single import SingleModel


@dataclass
class ContrastState:
    """Of each of the two passes."""

    strong: Any
    weak: Any


class Contrast:
    """Scores with the contrast of a model's two routings.

    weak          opens the weak routing, for as long as a pass takes; the strong one is ``model``'s
    weak_encoder  the weak pass has an encoder pass of its own, as where the prefix is part of the context; else they share one
    """

    def __init__(
        self,
        model: SingleModel | PreparedModel,
        weak: Callable[[], AbstractContextManager[None]],
        beta: float,
        alpha: float,
        weak_encoder: bool = False,
    ) -> None:
        self.model = model
        self.weak = weak
        self.beta = beta
        self.least = math.log(alpha) if alpha else -math.inf
        self.weak_encoder = weak_encoder

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @property
    def longest(self) -> int:
        """What its positions allow."""
        return self.model.longest

    def searching(self, beam: int) -> AbstractContextManager[None]:
        """Around a search: the model's own."""
        return self.model.searching(beam)

    def start(self, tokens_BS: Tensor, lengths_B: Tensor, beam: int) -> ContrastState:
        """Encode the sources, once or under either routing."""
        strong: Any = self.model.start(tokens_BS, lengths_B, beam)
        if not self.weak_encoder:
            return ContrastState(strong, self.model.again(strong))
        with self.weak():
            return ContrastState(strong, self.model.start(tokens_BS, lengths_B, beam))

    def log_probs(self, prefixes: Tensor, state: ContrastState, forbid: Forbid = nothing) -> Tensor:
        """Log-softmax of the contrast over V_valid; -inf elsewhere."""
        strong = self.model.log_probs(prefixes, state.strong).clone()  # the other pass may write where it lies
        with self.weak():
            weak = self.model.log_probs(prefixes, state.weak)
        scores = (1 + self.beta) * strong - self.beta * weak
        total = scores.masked_fill(~self._valid(strong), -math.inf).logsumexp(dim=-1, keepdim=True)
        return (scores - total).masked_fill_(~self._valid(forbid(strong)), -math.inf)

    def _valid(self, strong: Tensor) -> Tensor:
        """V_valid of the tokens that are not at -inf; bool [B, K, V]."""
        return (strong >= self.least + strong.amax(dim=-1, keepdim=True)) & (strong > -math.inf)

    def reorder(self, state: ContrastState, rows: Tensor) -> ContrastState:
        """Both passes alike."""
        return ContrastState(self.model.reorder(state.strong, rows), self.model.reorder(state.weak, rows))
