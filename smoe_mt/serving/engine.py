"""Answers what is asked for, with a `Translator`: what the worker process runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from smoe_mt.bleu_tokenizers import has_space_between_sentences
from smoe_mt.errors import UserError
from smoe_mt.generation.arguments import routing_of
from smoe_mt.generation.details import Candidate, Translation, Visits
from smoe_mt.generation.job import decoding_of
from smoe_mt.generation.prompt import strata_of_visits
from smoe_mt.generation.sentences import split
from smoe_mt.generation.texts import Text
from smoe_mt.generation.translator import Translator
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.names import groups_of_blocks
from smoe_mt.moe.registry import DENSE
from smoe_mt.serving.wire import Answer, Ask, Facts
from smoe_mt.tasks.pieces import WORD_START

MOST_DIALS = 32  # settings of the capacity dial that are remembered


class Engine:
    """A model with the search and the routing that the arguments of ``smoe-mt serve`` name."""

    def __init__(self, translator: Translator, args: argparse.Namespace) -> None:
        """UserError for settings that contradict each other."""
        self.translator, self.args = translator, args
        self.decoding = decoding_of(args)
        self._with_capacity = lru_cache(MOST_DIALS)(self._turned)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Engine:
        """Load the model. UserError for one that cannot be used."""
        translator = Translator.from_pretrained(
            args.model, args.data, args.device, args.dtype, verify=args.verify, routing=routing_of(args)
        )
        for line in translator.calibrations:
            print(line, file=sys.stderr)
        return cls(translator, args)

    def facts(self) -> Facts:
        """What the server has to know of the model."""
        translator = self.translator
        trained = [direction.split("-") for direction in translator.directions]
        targets = tuple(dict.fromkeys(target for _, target in trained))
        languages = translator.languages
        blocks = {str(block): groups for block, groups in groups_of_blocks(translator.loaded.model).items()}
        alone = len(translator.models) == 1
        return Facts(
            name=self.args.name or " + ".join(_name(each.checkpoint) for each in translator.models),
            targets={one: tuple(other for other in targets if other != one) for one in languages},
            blocks=blocks if alone else {},
            strata=strata_of_visits(translator),
            dial=alone and self._has_dial(),
            beam=self.decoding.beam,
        )

    def translate(self, asks: Sequence[Ask]) -> list[list[Answer]]:
        """The answers to each ask's lines; asks of one lane. UserError for a setting of the dial that the model has not.

        A process of the search that was killed is no fault of those who ask: BrokenProcessPool.
        """
        (lane,) = {ask.lane for ask in asks}
        routing, capacity = lane
        translator = self.translator if capacity is None else self._with_capacity(capacity)
        parts = [[self._sentences(line, ask.source) for line in ask.lines] for ask in asks]
        texts = [
            Text([sentence for line in lines for sentence in line], ask.source, ask.target)
            for ask, lines in zip(asks, parts)
        ]
        try:
            found = translator.translate_together(
                texts,
                self.decoding,
                nbest=max(ask.nbest for ask in asks),
                routing=routing,
                max_tokens=self.args.max_tokens,
                processes=self.args.processes,
            )
        except UserError as error:
            if isinstance(error.__cause__, BrokenProcessPool):
                raise error.__cause__ from None
            raise
        return [list(_answers(ask, lines, mine)) for ask, lines, mine in zip(asks, parts, found, strict=True)]

    def _sentences(self, line: str, language: str) -> list[str]:
        if self.args.split_sentences:
            return split(line, language)
        return [line] if line.strip() else []

    def _turned(self, capacity: str) -> Translator:
        """The same model with another setting of the capacity dial."""
        routing = replace(self.translator.routing, capacity=capacity)
        return Translator(*self.translator.models, routing=routing)

    def _has_dial(self) -> bool:
        if str(self.translator.loaded.config.model.moe) == DENSE:
            return False
        if not SYSTEMS[str(self.translator.loaded.config.model.moe)].nested:
            return False
        try:
            self._with_capacity("bias=0")
        except UserError:
            return False
        return True


def _name(checkpoint: Any) -> str:
    """Of the folder that a checkpoint lies in: the run's or the export's."""
    return checkpoint.parent.name or checkpoint.name


def _answers(ask: Ask, lines: Sequence[Sequence[str]], translations: Sequence[Translation]) -> Iterator[Answer]:
    rest = iter(translations)
    space = " " if has_space_between_sentences(ask.target) else ""
    for sentences in lines:
        mine = [one.candidates[: ask.nbest] for one in islice(rest, len(sentences))]
        count = max(map(len, mine), default=1)
        texts = tuple(space.join(_at(candidates, place).text for candidates in mine) for place in range(count))
        segments = [
            {"source": source, "candidates": [_shown(candidate) for candidate in candidates]}
            for source, candidates in zip(sentences, mine)
        ]
        yield Answer(texts, tuple(segments) if ask.routing else ())


def _at(candidates: Sequence[Candidate], place: int) -> Candidate:
    """A sentence with fewer candidates than another one of its line repeats its last."""
    return candidates[min(place, len(candidates) - 1)]


def _shown(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values."""
    shown: dict[str, Any] = {"text": candidate.text, "score": round(candidate.score, 4)}
    for side, visits in (("source", candidate.source_visits), ("target", candidate.target_visits)):
        if visits is not None:
            shown[side] = _tokens(visits)
    return shown


def _tokens(visits: Visits) -> list[dict[str, Any]]:
    """Of each token: how it is written, its mean of visits, and the experts of each visit to each block."""
    means = visits.means() or (0.0,) * len(visits.pieces)
    return [
        {
            "text": piece.replace(WORD_START, " "),
            "visits": round(mean, 3),
            "experts": {block: experts[place] for block, experts in visits.experts.items()},
        }
        for place, (piece, mean) in enumerate(zip(visits.pieces, means))
    ]
