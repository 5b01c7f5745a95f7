"""Several models of one vocabulary: the mean of their probabilities, as in fairseq's ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from smoe_mt.search.steps.base import Forbid, StepScorer, nothing


class Ensemble:
    """Scores with the mean of what its members give, log (sum_m p_m / M). All are on one device."""

    def __init__(self, members: Sequence[StepScorer]) -> None:
        self.members = tuple(members)

    @property
    def device(self) -> torch.device:
        """The members'."""
        return self.members[0].device

    @property
    def longest(self) -> int:
        """What all members allow."""
        return min(member.longest for member in self.members)

    @contextmanager
    def searching(self, beam: int) -> Iterator[None]:
        """Around a search, for each member."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.searching(beam))
            yield

    def start(self, tokens_BS: Tensor, lengths_B: Tensor, beam: int) -> list[Any]:
        """Each member encodes the sources."""
        return [member.start(tokens_BS, lengths_B, beam) for member in self.members]

    def log_probs(self, prefixes: Tensor, state: list[Any], forbid: Forbid = nothing) -> Tensor:
        """The logarithm of the mean probability."""
        each = [member.log_probs(prefixes, own, forbid) for member, own in zip(self.members, state, strict=True)]
        return torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))

    def reorder(self, state: list[Any], rows: Tensor) -> list[Any]:
        """Each member's own."""
        return [member.reorder(own, rows) for member, own in zip(self.members, state, strict=True)]
