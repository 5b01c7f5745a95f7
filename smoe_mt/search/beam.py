"""Beam search over a batch of sentences: fairseq's hypotheses (up to ties), each sentence with a length limit of its own.

fairseq computes the limit ``max_len_a * length + max_len_b`` from the longest source of a batch, so that a translation that
runs on is cut somewhere else depending on its neighbours. And its search passes over all logits a dozen times a step, which
costs small models more than their layers do. Here a step reads them three times: product, softmax, best of each row.

Shape letters: B sentences at hand, K beams, V vocabulary, C = 2K candidates of a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from fairseq.data import Dictionary
from torch import Tensor

from smoe_mt.errors import UserError, setting
from smoe_mt.search.beams import Beams, Candidates, Finished, Hypothesis, lines_of
from smoe_mt.search.best import best_of_sentences
from smoe_mt.search.steps import StepScorer

FREE = -1  # in place of a token: the search may choose it
STEPS_UNASKED = 4  # of a search on a GPU, whose host does not ask meanwhile whether sentences are finished
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


class BeamDecoder:
    """Searches with the scores of `scorer`; give it batches of encoded sources.

    On a GPU nothing is read back from the device but, every few steps, which sentences are finished.
    """

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
            return self._search(sources, prefixes).hypotheses()

    def _search(self, sources: Sequence[Tensor], prefixes: Sequence[Tensor]) -> Finished:
        tokens, lengths = self._batch(sources)
        state = self.scorer.start(tokens, lengths, self.decoding.beam)
        limits = self._limits(lengths.tolist(), prefixes)
        beams = self._start(limits)
        forced_BP = _forced(prefixes, self.scorer.device)
        finished = Finished.of(len(sources), self.decoding.beam, max(limits), self.scorer.device)
        while True:
            some_full = beams.step >= min(limits)
            forbid = partial(self._forbid, beams=beams, some_full=some_full, forced_BP=forced_BP)
            logprobs_BKV = self.scorer.log_probs(beams.tokens, state, forbid)
            found = self._candidates(beams, logprobs_BKV)
            ends_BC = found.token_BC == self.eos
            some_end = not self._may_ask or bool(ends_BC.any())
            if some_end or some_full:
                beams.done_B = beams.done_B | self._collect(beams, found, ends_BC, finished)
            if beams.step == max(limits):
                return finished
            beams, beam_BK = self._advance(beams, found, ends_BC, some_end)
            rows = beam_BK + torch.arange(0, beam_BK.numel(), self.decoding.beam, device=beam_BK.device)[:, None]
            if (some_end or some_full) if self._may_ask else beams.step % STEPS_UNASKED == 0:
                going = self._going(beams)
                if going is not None:
                    if not len(going):
                        return finished
                    beams, rows = beams.select(going), rows.index_select(0, going)
            state = self.scorer.reorder(state, rows.flatten())

    @property
    def _may_ask(self) -> bool:
        """Whether looking at values costs nothing."""
        return self.scorer.device.type == "cpu"

    def _batch(self, sources: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """int64 [B, longest], padded at the end, and the lengths."""
        lengths = torch.tensor([len(source) for source in sources])
        return torch.nn.utils.rnn.pad_sequence(list(sources), batch_first=True, padding_value=self.pad), lengths

    def _limits(self, lengths: Sequence[int], prefixes: Sequence[Tensor]) -> list[int]:
        """The longest output of each source, never shorter than its prefix."""
        wanted = [self.decoding.limit(length) for length in lengths]
        if prefixes:
            wanted = [max(limit, len(prefix)) for limit, prefix in zip(wanted, prefixes, strict=True)]
        return [min(limit, self.scorer.longest) for limit in wanted]

    def _start(self, limits: Sequence[int]) -> Beams:
        """One beam a sentence, with nothing but the start of sentence; the others come with the first step."""
        b, k, device = len(limits), self.decoding.beam, self.scorer.device
        scores_BK = torch.full((b, k), -math.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens = torch.full((b, k, 1), self.eos, dtype=torch.long, device=device)
        done_B = torch.zeros(b, dtype=torch.bool, device=device)
        return Beams(torch.arange(b, device=device), torch.tensor(limits, device=device), tokens, scores_BK, done_B)

    def _forbid(self, logprobs_BKV: Tensor, beams: Beams, some_full: bool, forced_BP: Tensor) -> Tensor:
        """The scores with what must not come at -inf; [B, K, V], float32."""
        logprobs_BKV.select(2, self.pad).fill_(-math.inf)
        if beams.step < self.decoding.min_len:
            logprobs_BKV.select(2, self.eos).fill_(-math.inf)
        if some_full:
            full_B = (beams.limit_B <= beams.step) & ~beams.done_B
            if not self._may_ask or full_B.any():
                token_V = torch.arange(logprobs_BKV.size(2), device=logprobs_BKV.device)
                logprobs_BKV.masked_fill_(full_B[:, None, None] & (token_V != self.eos), -math.inf)
        if beams.step < forced_BP.size(1):
            forced_B1 = forced_BP[beams.sentence_B, beams.step, None]
            token_V = torch.arange(logprobs_BKV.size(2), device=logprobs_BKV.device)
            others_BV = (forced_B1 != FREE) & (forced_B1 != token_V)
            logprobs_BKV.masked_fill_(others_BV[:, None], -math.inf)
        return logprobs_BKV

    def _candidates(self, beams: Beams, logprobs_BKV: Tensor) -> Candidates:
        """The best 2K continuations of each sentence: enough for K that go on, as each beam ends in one way only."""
        k, vocabulary = logprobs_BKV.shape[1:]
        return Candidates(*best_of_sentences(logprobs_BKV, beams.scores_BK, min(2 * k, k * vocabulary)))

    def _collect(self, beams: Beams, found: Candidates, ends_BC: Tensor, finished: Finished) -> Tensor:
        """Keep the hypotheses that end among the best K candidates; returns which sentences are finished, bool [B]."""
        k = self.decoding.beam
        real_BC = found.scores_BC > -math.inf
        ends_BK = (ends_BC & real_BC)[:, :k] & ~beams.done_B[:, None]
        lines_BKT = lines_of(beams.tokens[:, :, 1:], found.beam_BC[:, :k])
        scores_BK = found.scores_BC[:, :k] / (beams.step + 1) ** self.decoding.lenpen
        finished.add(beams.sentence_B, ends_BK, lines_BKT, scores_BK)
        ended_B = (beams.limit_B <= beams.step) | ~(real_BC & ~ends_BC).any(dim=1)
        return ended_B | (finished.count.index_select(0, beams.sentence_B) == k)

    def _advance(self, beams: Beams, found: Candidates, ends_BC: Tensor, some_end: bool) -> tuple[Beams, Tensor]:
        """The best K candidates that go on, and the beams of their sentence that they continue, int64 [B, K]."""
        k = self.decoding.beam
        if some_end:
            # Those that go on, in their order, in front of those that end.
            order_BC = (ends_BC * ends_BC.size(1) + torch.arange(ends_BC.size(1), device=ends_BC.device)).argsort(dim=1)
            parts = (found.scores_BC, found.token_BC, found.beam_BC)
            scores_BK, token_BK, beam_BK = (part.gather(1, order_BC[:, :k]) for part in parts)
        else:
            scores_BK, token_BK, beam_BK = found.scores_BC[:, :k], found.token_BC[:, :k], found.beam_BC[:, :k]
        tokens = torch.cat([lines_of(beams.tokens, beam_BK), token_BK[:, :, None]], dim=2)
        return Beams(beams.sentence_B, beams.limit_B, tokens, scores_BK, beams.done_B), beam_BK

    def _going(self, beams: Beams) -> Tensor | None:
        """Numbers of the sentences that go on, where it pays to leave the others: int64; None: all stay.

        To leave some is to copy the state of the others.
        """
        going, present = int((~beams.done_B).sum()), len(beams.done_B)
        few = rows_for(going) < present if self._may_ask else 2 * going <= present
        if going and not few:
            return None
        return (~beams.done_B).nonzero().squeeze(1)


def _forced(prefixes: Sequence[Tensor], device: torch.device) -> Tensor:
    """int64 [B, longest prefix], `FREE` behind the end of each prefix; [0, 0] without prefixes."""
    if not prefixes:
        return torch.empty(0, 0, dtype=torch.long, device=device)
    return torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True, padding_value=FREE).to(device)


def rows_for(sentences: int) -> int:
    """Sentences up to which a batch with so many unfinished ones stays as it is: at most a ninth more."""
    step = 1 << max(sentences.bit_length() - 4, 0)
    return -(-sentences // step) * step
