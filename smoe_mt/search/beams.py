"""What a beam search keeps: beams, candidates for their next tokens, and what has ended; tensors of fixed shapes.

Shape letters: B sentences at hand, K beams, C candidates of a sentence, T tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One translation: `tokens` [length] without end of sentence, and its length-normalised log-probability."""

    tokens: Tensor
    score: float


@dataclass
class Beams:
    """The sentences at hand, after `step` output tokens: those that are not finished, and some that are.

    sentence_B  which source each is; limit_B its longest output; both int64
    tokens      int64 [B, K, step + 1], from the start of sentence on
    scores_BK   log-probability of each beam; -inf for one that does not exist
    done_B      bool, finished: it is searched on with the others, and what is found is not asked for
    """

    sentence_B: Tensor
    limit_B: Tensor
    tokens: Tensor
    scores_BK: Tensor
    done_B: Tensor

    @property
    def step(self) -> int:
        return self.tokens.size(2) - 1

    def select(self, sentences: Tensor) -> Beams:
        """Some of the sentences."""
        parts = (self.sentence_B, self.limit_B, self.tokens, self.scores_BK, self.done_B)
        return Beams(*(part.index_select(0, sentences) for part in parts))


@dataclass
class Finished:
    """What has ended: per source at most K hypotheses, and one more place where others go.

    tokens [sources, K + 1, longest]; scores and lengths [sources, K + 1]; count [sources]
    """

    tokens: Tensor
    scores: Tensor
    lengths: Tensor
    count: Tensor

    @staticmethod
    def of(sources: int, beam: int, longest: int, device: torch.device) -> Finished:
        """Nothing yet."""
        return Finished(
            torch.zeros(sources, beam + 1, longest, dtype=torch.long, device=device),
            torch.zeros(sources, beam + 1, device=device),
            torch.zeros(sources, beam + 1, dtype=torch.long, device=device),
            torch.zeros(sources, dtype=torch.long, device=device),
        )

    def add(self, sentence_B: Tensor, ends_BK: Tensor, lines_BKT: Tensor, scores_BK: Tensor) -> None:
        """Keep the outputs that end, in the order of the beams, as long as there is room."""
        beam = ends_BK.size(1)
        counts_BK = self.count.index_select(0, sentence_B)[:, None] + ends_BK.cumsum(1)
        place_BK = torch.where(ends_BK, counts_BK - 1, beam).clamp_(max=beam)
        at = (sentence_B[:, None] * (beam + 1) + place_BK).flatten()
        length = lines_BKT.size(2)
        self.tokens.view(-1, self.tokens.size(2))[:, :length].index_copy_(0, at, lines_BKT.flatten(0, 1))
        self.scores.view(-1).index_copy_(0, at, scores_BK.flatten())
        self.lengths.view(-1).index_fill_(0, at, length)
        self.count.index_copy_(0, sentence_B, counts_BK[:, -1].clamp(max=beam))

    def hypotheses(self) -> list[list[Hypothesis]]:
        """Of each source, the best first."""
        tokens, scores, lengths = self.tokens.cpu(), self.scores.tolist(), self.lengths.tolist()
        found = [
            [Hypothesis(tokens[b, k, : lengths[b][k]].clone(), scores[b][k]) for k in range(count)]
            for b, count in enumerate(self.count.tolist())
        ]
        return [sorted(each, key=lambda hypothesis: -hypothesis.score) for each in found]


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each sentence, best first: scores, tokens and the beams that they continue; [B, C] each."""

    scores_BC: Tensor
    token_BC: Tensor
    beam_BC: Tensor


def lines_of(values_BKT: Tensor, beam_BK: Tensor) -> Tensor:
    """Of each sentence the lines of these beams; [B, K, T]."""
    return values_BKT.gather(1, beam_BK[:, :, None].expand(-1, -1, values_BKT.size(2)))
