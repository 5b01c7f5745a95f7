"""Beam search over a batch of sentences: fairseq's hypotheses (up to ties), each sentence with a length limit of its own.

fairseq computes the limit ``max_len_a * length + max_len_b`` from the longest source of a batch, so that a translation that
runs on is cut somewhere else depending on its neighbours. And its search passes over all logits a dozen times a step, which
costs small models more than their layers do. Here a step reads them three times: product, softmax, best of each row.

Shape letters: B sentences that are not finished, K beams, V vocabulary, C = 2K candidates of a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial

import torch
from fairseq.data import Dictionary
from torch import Tensor

from smoe_mt.errors import UserError, setting
from smoe_mt.search.steps import StepScorer

FREE = -1  # in place of a token: the search may choose it
CONTRAST = ("contrast", "contrast_rank", "contrast_alpha", "contrast_encoder")
MOST_CONTRAST = 100


@dataclass(frozen=True)
class Decoding:
    """How to search. An output has at least `min_len` and at most ``max_len_a * source tokens + max_len_b`` tokens before
    its end.

    `lenpen` is the exponent of the length by which a hypothesis' log-probability is divided.

    `contrast`: beta of ``steps.Contrast``, None for none; the weak pass takes the expert of rank `contrast_rank`, counted from
    1, and tokens below `contrast_alpha` times the best one's probability are left out (0: none); `contrast_encoder`: the
    weak pass reads the source by itself.
    """

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 2.0
    max_len_b: int = 10
    min_len: int = 1
    contrast: float | None = None
    contrast_rank: int = 2
    contrast_alpha: float = 0.1
    contrast_encoder: bool = False

    def __post_init__(self) -> None:
        for name in ("beam", "max_len_b", "min_len", "contrast_rank"):
            least, value = int(name in ("beam", "contrast_rank")), getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{setting(name)} is {value!r}: it must be a whole number of {least} or more")
        for name in ("lenpen", "max_len_a", "contrast", "contrast_alpha"):
            value = getattr(self, name)
            if name == "contrast" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"{setting(name)} is {value!r}: it must be a finite number")
        if self.max_len_a < 0 or self.max_len_b < 0 or self.max_len_a + self.max_len_b == 0:
            raise UserError(
                f"{setting('max_len_a')} {self.max_len_a} and {setting('max_len_b')} {self.max_len_b} leave no room for an output; "
                "raise one of them"
            )
        self._check_contrast()

    def _check_contrast(self) -> None:
        if not isinstance(self.contrast_encoder, bool):
            raise UserError(f"{setting('contrast_encoder')} is {self.contrast_encoder!r}: it must be True or False")
        if not 0 <= self.contrast_alpha <= 1:
            raise UserError(
                f"{setting('contrast_alpha')} is {self.contrast_alpha}: it must be from 0 (all tokens are valid) to 1"
            )
        if self.contrast is None:
            usual = {field.name: field.default for field in fields(self)}
            given = [name for name in CONTRAST[1:] if getattr(self, name) != usual[name]]
            if given:
                raise contrast_alone(given[0])
        elif not 0 <= self.contrast <= MOST_CONTRAST:
            raise UserError(f"{setting('contrast')} is {self.contrast}: beta must be from 0 to {MOST_CONTRAST}")

    def limit(self, source_tokens: int) -> int:
        """Longest output, in tokens, for a source of `source_tokens` (tag and end of sentence counted)."""
        return max(1, self.min_len, int(self.max_len_a * source_tokens + self.max_len_b))


def contrast_alone(name: str) -> UserError:
    """The error for a setting of the contrast where there is none."""
    return UserError(f"{setting(name)} is of use with contrast alone: set {setting('contrast')}, such as 0.5, too")


@dataclass(frozen=True)
class Hypothesis:
    """One translation: `tokens` [length] without end of sentence, and its length-normalised log-probability."""

    tokens: Tensor
    score: float


@dataclass
class Beams:
    """The sentences that are not finished, after `step` output tokens.

    sentence_B  which source each is; limit_B its longest output; both int64
    tokens      int64 [B, K, step + 1], from the start of sentence on
    scores_BK   log-probability of each beam; -inf for one that does not exist
    """

    sentence_B: Tensor
    limit_B: Tensor
    tokens: Tensor
    scores_BK: Tensor

    @property
    def step(self) -> int:
        return self.tokens.size(2) - 1


@dataclass
class Finished:
    """What has ended: per source its hypotheses, at most `beam` of them."""

    beam: int
    of: list[list[Hypothesis]] = field(default_factory=list)

    def add(self, sentence: int, tokens: Tensor, score: float) -> None:
        if len(self.of[sentence]) < self.beam:
            self.of[sentence].append(Hypothesis(tokens, score))

    def is_full(self, sentence: int) -> bool:
        return len(self.of[sentence]) == self.beam


class BeamDecoder:
    """Searches with the scores of `scorer`; give it batches of encoded sources."""

    def __init__(self, scorer: StepScorer, dictionary: Dictionary, decoding: Decoding) -> None:
        self.scorer = scorer
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.decoding = decoding

    @torch.inference_mode()  # a tenth faster than no_grad where few sentences are left
    def __call__(self, sources: Sequence[Tensor], prefixes: Sequence[Tensor] = ()) -> list[list[Hypothesis]]:
        """`sources`: int64 [length] each, tag first, end of sentence last. Returns n-best lists, the best first.

        `prefixes`: int64 [length] each, how the hypotheses of each source have to begin; part of their tokens and scores.
        """
        with self.scorer.searching(self.decoding.beam):
            finished = self._search(sources, prefixes)
        return [sorted(found, key=lambda hypothesis: -hypothesis.score) for found in finished.of]

    def _search(self, sources: Sequence[Tensor], prefixes: Sequence[Tensor]) -> Finished:
        k = self.decoding.beam
        tokens, lengths = self._batch(sources)
        state = self.scorer.start(tokens, lengths, k)
        beams = self._start(lengths.tolist(), prefixes)
        forced_BP = _forced(prefixes, self.scorer.device)
        finished = Finished(k, [[] for _ in sources])
        while True:
            forbid = partial(self._allowed, beams=beams, forced_BP=forced_BP)
            logprobs_BKV = self.scorer.log_probs(beams.tokens, state, forbid)
            candidates = self._candidates(beams, logprobs_BKV)
            ended_B = self._collect(beams, candidates, finished)
            beams, order = self._advance(beams, candidates, ended_B)
            if not beams.sentence_B.numel():
                return finished
            state = self.scorer.reorder(state, order)

    def _batch(self, sources: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """int64 [B, longest], padded at the end, and the lengths."""
        lengths = torch.tensor([len(source) for source in sources])
        return torch.nn.utils.rnn.pad_sequence(list(sources), batch_first=True, padding_value=self.pad), lengths

    def _start(self, lengths: Sequence[int], prefixes: Sequence[Tensor]) -> Beams:
        """One beam a sentence, with nothing but the start of sentence; the others come with the first step.

        A limit is never shorter than the sentence's prefix.
        """
        b, k, device = len(lengths), self.decoding.beam, self.scorer.device
        longest = self.scorer.longest
        wanted = [self.decoding.limit(length) for length in lengths]
        if prefixes:
            wanted = [max(limit, len(prefix)) for limit, prefix in zip(wanted, prefixes, strict=True)]
        limits = torch.tensor([min(limit, longest) for limit in wanted], device=device)
        scores_BK = torch.full((b, k), -math.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens = torch.full((b, k, 1), self.eos, dtype=torch.long, device=device)
        return Beams(torch.arange(b, device=device), limits, tokens, scores_BK)

    def _allowed(self, logprobs_BKV: Tensor, beams: Beams, forced_BP: Tensor) -> Tensor:
        """The scores with what must not come at -inf; [B, K, V], float32."""
        logprobs_BKV[:, :, self.pad] = -math.inf
        if beams.step < self.decoding.min_len:
            logprobs_BKV[:, :, self.eos] = -math.inf
        full_B = beams.limit_B <= beams.step
        if full_B.any():
            end_BK = logprobs_BKV[:, :, self.eos].clone()
            logprobs_BKV.masked_fill_(full_B[:, None, None], -math.inf)
            logprobs_BKV[:, :, self.eos] = end_BK
        if beams.step < forced_BP.size(1):
            forced_B = forced_BP[beams.sentence_B, beams.step]
            rows = (forced_B != FREE).nonzero().squeeze(1)
            kept = logprobs_BKV[rows, :, forced_B[rows]]
            logprobs_BKV[rows] = -math.inf
            logprobs_BKV[rows, :, forced_B[rows]] = kept
        return logprobs_BKV

    def _candidates(self, beams: Beams, logprobs_BKV: Tensor) -> Candidates:
        """The best 2K continuations of each sentence: enough for K that go on, as each beam ends in one way only."""
        k, vocabulary = logprobs_BKV.shape[1:]
        per_row = min(2 * k, vocabulary)
        best_BKC, token_BKC = logprobs_BKV.topk(per_row)
        total_BC = (best_BKC + beams.scores_BK[:, :, None]).flatten(1)
        scores_BC, place_BC = total_BC.topk(min(2 * k, total_BC.size(1)))
        return Candidates(scores_BC, token_BKC.flatten(1).gather(1, place_BC), place_BC // per_row)

    def _collect(self, beams: Beams, found: Candidates, finished: Finished) -> Tensor:
        """Keep the hypotheses that end among the best K candidates; returns which sentences are finished, bool [B]."""
        k = self.decoding.beam
        ends_BC, real_BC = found.token_BC == self.eos, found.scores_BC > -math.inf
        ends_BK = (ends_BC & real_BC)[:, :k]
        ended_B = (beams.limit_B <= beams.step) | ~(real_BC & ~ends_BC).any(dim=1)
        places = ends_BK.nonzero()
        if len(places):
            rows, columns = places.unbind(dim=1)
            lines = beams.tokens[rows, found.beam_BC[rows, columns], 1:].cpu()
            scores = found.scores_BC[rows, columns] / (beams.step + 1) ** self.decoding.lenpen
            for row, sentence, tokens, score in zip(
                rows.tolist(), beams.sentence_B[rows].tolist(), lines, scores.tolist(), strict=True
            ):
                finished.add(sentence, tokens, score)
                ended_B[row] |= finished.is_full(sentence)
        return ended_B

    def _advance(self, beams: Beams, found: Candidates, ended_B: Tensor) -> tuple[Beams, Tensor]:
        """The best K candidates that go on, of the sentences that do, and the rows [B * K] that they continue."""
        k = self.decoding.beam
        ends_BC = found.token_BC == self.eos
        # Those that go on, in their order, in front of those that end.
        order_BC = (ends_BC * ends_BC.size(1) + torch.arange(ends_BC.size(1), device=ends_BC.device)).argsort(dim=1)
        going_BK = order_BC[~ended_B, :k]
        row_B = (~ended_B).nonzero().squeeze(1)
        found = Candidates(
            *(value[row_B].gather(1, going_BK) for value in (found.scores_BC, found.token_BC, found.beam_BC))
        )
        source_BK = row_B[:, None] * k + found.beam_BC
        tokens = beams.tokens.flatten(0, 1)[source_BK.flatten()].view(len(row_B), k, beams.step + 1)
        tokens = torch.cat([tokens, found.token_BC[:, :, None]], dim=2)
        return Beams(beams.sentence_B[row_B], beams.limit_B[row_B], tokens, found.scores_BC), source_BK.flatten()


def _forced(prefixes: Sequence[Tensor], device: torch.device) -> Tensor:
    """int64 [B, longest prefix], `FREE` behind the end of each prefix; [0, 0] without prefixes."""
    if not prefixes:
        return torch.empty(0, 0, dtype=torch.long, device=device)
    return torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True, padding_value=FREE).to(device)


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each sentence, best first: scores, tokens and the beams that they continue; [B, C] each."""

    scores_BC: Tensor
    token_BC: Tensor
    beam_BC: Tensor
