"""Lines of several sentences: cut before translation, joined after it.

By sentencex (the extra "split"; its rules come in its wheel). It knows no sentences in Thai, Khmer or Tibetan, and takes such a
line for one.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from smoe_mt.bleu_tokenizers import has_space_between_sentences
from smoe_mt.errors import UserError
from smoe_mt.generation.details import Candidate, Translation
from smoe_mt.generation.texts import Text
from smoe_mt.languages import library_code
from smoe_mt.text import normalise

#: Languages for which sentencex 1.0 has abbreviations and marks of its own. It takes others for a relative, or for English.
_RULES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
OWN_RULES = frozenset(_RULES.split())


def check_split(nbest: int, routing: bool) -> None:
    """UserError if sentencex is not installed, and for what cannot be told of a line of several sentences."""
    if nbest != 1:
        raise UserError("with split sentences a line has one candidate, the best of each sentence: leave out nbest")
    if routing:
        raise UserError(
            "with split sentences there is no routing of a whole line: give one sentence a line, or leave it out"
        )
    _library()


@cache
def _library() -> Any:
    try:
        import sentencex
    except ImportError as error:
        raise UserError("splitting sentences needs sentencex: pip install 'smoe_mt[split]'") from error
    return sentencex


def split(line: str, language: str) -> list[str]:
    """The sentences of a line in the form of the training text, without white space around them; none of an empty line."""
    # Normalised first: sentencex 1.0 panics at white space other than a plain space after a capital letter.
    sentences: Iterable[str] = _library().segment(library_code(language), normalise(line))
    return [sentence.strip() for sentence in sentences if sentence.strip()]


@cache
def _say_what_rules(language: str) -> None:
    if library_code(language) not in OWN_RULES:
        warnings.warn_explicit(
            f"sentencex has no rules for {language}: its sentences are split by those of a related language, or of English",
            *(UserWarning, __file__, 0),
        )


@dataclass(frozen=True)
class SplitText:
    """A text, its sentences as a text of their own, and how many of them each line has."""

    lines: Sequence[str]
    sentences: Text
    counts: Sequence[int]

    @classmethod
    def of(cls, text: Text) -> SplitText:
        """A line's first sentence gets the line's prefix."""
        _say_what_rules(text.source)
        parts = [split(line, text.source) for line in text.lines]
        counts = [len(part) for part in parts]
        prefixes = [
            prefix if place == 0 else "" for prefix, count in zip(text.prefixes, counts) for place in range(count)
        ]
        sentences = list(itertools.chain.from_iterable(parts))
        return cls(text.lines, Text(sentences, text.source, text.target, prefixes), counts)

    def joined(self, translations: Iterable[Translation]) -> list[Translation]:
        """One translation for each line, of those of its sentences: its score is their sum, the white space around it stays."""
        rest = iter(translations)
        return [self._join(line, list(itertools.islice(rest, count))) for line, count in zip(self.lines, self.counts)]

    def _join(self, line: str, parts: Sequence[Translation]) -> Translation:
        space = " " if has_space_between_sentences(self.sentences.target) else ""
        text = space.join(part.text for part in parts if part.text)
        before, after = line[: len(line) - len(line.lstrip())], line[len(line.rstrip()) :] if line.strip() else ""
        return Translation(line, (Candidate(f"{before}{text}{after}", sum(part.score for part in parts)),))
