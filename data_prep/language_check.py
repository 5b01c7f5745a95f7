"""Sentences on the wrong side, or in neither language of the pair.

Without a library: English left untranslated in the foreign column, and the reverse. No list of languages is needed: the corpus itself says which words belong to which side. A sentence is told by the mean
over its words of log p(word | other side) - log p(word | own side), with its own words taken out of its side's counts.

With py3langid (the extra "langid"; its model comes in its wheel): sentences that it takes, with confidence, for a third
language. Close relatives of the right language pass, and so do short sentences and languages that it does not know.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any

from smoe_mt.language_identifier import load_identifier

FEWEST_TO_TELL = 500
FEWEST_WORDS = 2
SHORT = 3
USUAL_EVIDENCE = -1.5
EVIDENCE_OF_SHORT, EVIDENCE_OF_LONG = 1.0, 0.2
SMOOTHING = 0.5
FEWEST_WORDS_TO_IDENTIFY = 5
CONFIDENCE = 0.9
RELATIVES = ({"ms", "id"}, {"no", "nb", "nn", "da"}, {"hr", "bs", "sr", "sh"}, {"gl", "pt"}, {"cs", "sk"}, {"xh", "zu"})


@dataclass(frozen=True)
class Vocabulary:
    """How often each word stands on one side of a corpus."""

    counts: Counter[str]
    total: int

    @classmethod
    def of(cls, sentences: Iterable[Sequence[str]]) -> Vocabulary:
        """Counted from sentences of words."""
        counts: Counter[str] = Counter()
        for sentence in sentences:
            counts.update(sentence)
        return cls(counts, counts.total())


def evidence(sentence: Sequence[str], own: Vocabulary, other: Vocabulary) -> float:
    """Mean log odds that the words are the other side's, in nats a word; 0 for an empty sentence."""
    if not sentence:
        return 0.0
    inside = Counter(sentence)
    scale = math.log((own.total + 1) / (other.total + 1))
    logs = (
        math.log((other.counts[word] + SMOOTHING) / (max(own.counts[word] - inside[word], 0) + SMOOTHING)) + scale
        for word in sentence
    )
    return sum(logs) / len(sentence)


def reads_like(sentence: Sequence[str], own: Vocabulary, other: Vocabulary) -> bool:
    """Whether a sentence of one side is, by its words, in the other side's language."""
    enough = EVIDENCE_OF_SHORT if len(sentence) <= SHORT else EVIDENCE_OF_LONG
    return len(sentence) >= FEWEST_WORDS and evidence(sentence, own, other) > enough


def told_apart(evidences: Iterable[float]) -> bool:
    """Whether the sides differ enough in their words for the check to mean something, by the evidence of one side's
    sentences; close relatives do not.
    """
    return median(evidences) < USUAL_EVIDENCE


@lru_cache(maxsize=1)
def _library() -> Any:
    return load_identifier("--identify-languages", probabilities=True)


def check_library() -> None:
    """UserError if py3langid is not installed."""
    _library()


@dataclass(frozen=True)
class Identifier:
    """Checks the two sides of a pair; ``accepted`` are the library's labels that each side may get (empty: any)."""

    accepted: tuple[frozenset[str], frozenset[str]]

    @classmethod
    def of(cls, languages: tuple[str, str], labels: Mapping[str, str]) -> Identifier:
        """For two languages of ours; ``labels`` gives those whose code is not the library's. UserError if it is not
        installed.
        """
        known = set(_library().nb_classes)
        own = [labels.get(language, language) for language in languages]
        accepted = [{label}.union(*(group for group in RELATIVES if label in group)) & known for label in own]
        return cls((frozenset(accepted[0]), frozenset(accepted[1])))

    def objects(self, first: str, second: str) -> bool:
        """Whether a side is clearly in a language that it should not be in."""
        return any(_is_other(text, labels) for text, labels in zip((first, second), self.accepted) if labels)


def _is_other(text: str, accepted: frozenset[str]) -> bool:
    if len(text.split()) < FEWEST_WORDS_TO_IDENTIFY:
        return False
    label, confidence = _library().classify(text)
    return label not in accepted and confidence >= CONFIDENCE
