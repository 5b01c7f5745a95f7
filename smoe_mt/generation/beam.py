"""Beam search: fairseq's, with a length limit for each sentence instead of one for the batch.

fairseq computes the limit ``max_len_a * length + max_len_b`` from the longest source of a batch, so that a translation that
runs on is cut somewhere else depending on its neighbours. Here every sentence has its own limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from smoe_mt.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How to search. An output has at most ``max_len_a * source tokens + max_len_b`` tokens before its end.

    `lenpen` is the exponent of the length by which a hypothesis' log-probability is divided.
    """

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 2.0
    max_len_b: int = 10

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"beam is {self.beam}: it must be 1 or more")
        if self.max_len_a < 0 or self.max_len_b < 0 or self.max_len_a + self.max_len_b == 0:
            raise UserError(
                f"max_len_a {self.max_len_a} and max_len_b {self.max_len_b} leave no room for an output; raise one of them"
            )

    def limit(self, source_tokens: int) -> int:
        """Longest output, in tokens, for a source of `source_tokens` (tag and end of sentence counted)."""
        return max(1, int(self.max_len_a * source_tokens + self.max_len_b))


@dataclass(frozen=True)
class Hypothesis:
    """One translation: `tokens` [length] without end of sentence, and its length-normalised log-probability."""

    tokens: Tensor
    score: float


class LimitedBeamSearch(BeamSearch):
    """fairseq's step, after which a sentence at its limit can only end."""

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self.limits = torch.zeros(0, dtype=torch.long)
        self.shortest = 0

    def set_limits(self, limits: Tensor) -> None:
        """`limits` [batch]: the longest output of each sentence of the next batch, in tokens."""
        self.limits = limits
        self.shortest = int(limits.min())

    def step(  # type: ignore[override]
        self,
        step: int,
        lprobs: Tensor,
        scores: Tensor | None,
        prev_output_tokens: Tensor | None = None,
        original_batch_idxs: Tensor | None = None,
        candidate_multiple: int = 2,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """lprobs [batch, beam, vocabulary] -> scores, tokens and beams of the candidates, each [batch, 2 * beam]."""
        if step >= self.shortest:
            full = self.limits[original_batch_idxs] <= step
            end = lprobs[:, :, self.eos].clone()
            lprobs = lprobs.masked_fill(full[:, None, None], -math.inf)
            lprobs[:, :, self.eos] = end
        return super().step(step, lprobs, scores, prev_output_tokens, original_batch_idxs, candidate_multiple)


class BeamDecoder:
    """Searches with one model; give it batches of encoded sources."""

    def __init__(self, model: Any, dictionary: Dictionary, decoding: Decoding) -> None:
        self.model = model
        self.pad = dictionary.pad()
        self.eos = dictionary.eos()
        self.decoding = decoding
        self.search = LimitedBeamSearch(dictionary)
        self.generator = SequenceGenerator(
            [model],
            dictionary,
            beam_size=decoding.beam,
            len_penalty=decoding.lenpen,
            max_len_a=0,
            search_strategy=self.search,
        )

    @torch.no_grad()
    def __call__(self, sources: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """`sources`: int64 [length] each, tag first, end of sentence last. Returns n-best lists, the best first."""
        sample = self._sample(sources)
        longest = self.generator.max_len - 1
        limits = torch.tensor([min(self.decoding.limit(len(source)), longest) for source in sources])
        self.generator.max_len_b = int(limits.max())
        self.search.set_limits(limits.to(sample["id"].device))
        self._share_sources(self.generator.beam_size)
        try:
            found = self.generator.generate([self.model], sample)
        finally:
            self._share_sources(1)
        return [
            [Hypothesis(self._without_end(hypothesis["tokens"]), float(hypothesis["score"])) for hypothesis in sentence]
            for sentence in found
        ]

    def _share_sources(self, beam: int) -> None:
        """Tell cross-attention that `beam` rows share one source, so that its keys and values are kept once.

        Said both before and after each search: fairseq would leave the last beam size of more than 1 in the model.
        """
        self.model.decoder.set_beam_size(beam)

    def _sample(self, sources: Sequence[Tensor]) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(source) for source in sources])
        tokens = torch.full((len(sources), int(lengths.max())), self.pad)
        for row, source in zip(tokens, sources):
            row[: len(source)] = source
        return {
            "id": torch.arange(len(sources), device=device),
            "net_input": {"src_tokens": tokens.to(device), "src_lengths": lengths.to(device)},
        }

    def _without_end(self, tokens: Tensor) -> Tensor:
        return tokens[tokens != self.eos].cpu()
