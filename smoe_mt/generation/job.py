"""What ``smoe-mt translate`` was asked for, and the lines that it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.generation.details import Candidate, Translation, Visits
from smoe_mt.generation.translator import Translator
from smoe_mt.search.beam import CONTRAST, Decoding, contrast_alone


def decoding_of(args: argparse.Namespace) -> Decoding:
    """The settings of the search. UserError for values that contradict each other."""
    contrast = {name: getattr(args, name) for name in CONTRAST if getattr(args, name) is not None}
    if contrast and args.contrast is None:  # also where what was typed is what it would be anyway
        raise contrast_alone(next(iter(contrast)))
    return Decoding(args.beam, args.lenpen, args.max_len_a, args.max_len_b, **contrast)


@dataclass
class Job:
    """What was asked for: the model, the direction, how to search and what to print. Counts the lines as it goes."""

    translator: Translator
    direction: tuple[str, str]
    args: argparse.Namespace
    lines: int = 0
    prefixes: list[str] | None = None

    def translate(self, lines: list[str]) -> list[str]:
        """The output lines for `lines`. UserError where --prefix-file has no line for one of them."""
        return [line for found in self.found(lines, self.args.routing) for line in self.printed(found)]

    def found(self, lines: list[str], routing: bool) -> list[Translation]:
        """The translations of the next lines, with visits where `routing` is set. UserError as `translate`."""
        args = self.args
        prefix: str | list[str] | None = args.prefix
        if self.prefixes is not None:
            prefix = self.prefixes[self.lines : self.lines + len(lines)]
            if len(prefix) < len(lines):
                raise UserError(
                    f"{args.prefix_file} has {len(self.prefixes)} lines, and the input has more: give one for each"
                )
        return self.translator.translate_in_detail(
            lines,
            *self.direction,
            decoding_of(args),
            prefix,
            nbest=args.nbest,
            routing=routing,
            max_tokens=args.max_tokens,
            processes=args.processes,
            split_sentences=args.split_sentences,
        )

    def printed(self, translation: Translation, text: Callable[[Candidate], str] = attrgetter("text")) -> Iterator[str]:
        """The output lines of the next translation; `text` gives a candidate's."""
        self.lines += 1
        if self.args.json or self.args.routing:
            yield json.dumps(as_json(translation), ensure_ascii=False)
            return
        number = f"{self.lines}\t" if self.args.nbest > 1 else ""
        for candidate in translation.candidates:
            score = f"{candidate.score:.4f}\t" if self.args.scores else ""
            yield number + score + text(candidate)


def as_json(translation: Translation) -> dict[str, Any]:
    """A translation as plain values; visits only where they are known."""
    return {"source": translation.source, "candidates": [_candidate(one) for one in translation.candidates]}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    entry: dict[str, Any] = {"text": candidate.text, "score": candidate.score}
    for side, visits in (("source", candidate.source_visits), ("target", candidate.target_visits)):
        if isinstance(visits, Visits):
            entry[side] = {"pieces": visits.pieces, "visits": visits.blocks}
    return entry
