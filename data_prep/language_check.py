"""Sentences that stand on the wrong side: English left untranslated in the foreign column, and the reverse.

No list of languages is needed: the corpus itself says which words belong to which side. A sentence is told by the mean
over its words of log p(word | other side) - log p(word | own side), with its own words taken out of its side's counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

FEWEST_WORDS = 2
SHORT = 3
USUAL_EVIDENCE = -1.5
EVIDENCE_OF_SHORT, EVIDENCE_OF_LONG = 1.0, 0.2
SMOOTHING = 0.5


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


def told_apart(sentences: Sequence[Sequence[str]], own: Vocabulary, other: Vocabulary) -> bool:
    """Whether the sides differ enough in their words for the check to mean something; close relatives do not."""
    return median(evidence(sentence, own, other) for sentence in sentences) < USUAL_EVIDENCE
