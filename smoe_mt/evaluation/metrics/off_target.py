"""How often a model writes in another language than the one that it was asked for.

By py3langid (the extra "langid"; its model comes in its wheel), which errs on short sentences and takes close relatives for
each other. The share of the *references* that it takes for another language stands in the signature: what a perfect
translation would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score
from smoe_mt.language_identifier import labels_of, load_identifier

NO_LANGUAGE = "zxx"  # the library's label for numbers and the like


@lru_cache(maxsize=1)
def _library() -> Any:
    return load_identifier("off_target", probabilities=False)


def check() -> None:
    """UserError if py3langid is not installed."""
    _library()


def labels(language: str) -> frozenset[str]:
    """The library's labels that are this language: {"no"} for nob. Empty where it does not know the language."""
    return labels_of(language, _library())


def share_of_others(lines: Sequence[str], accepted: frozenset[str]) -> float:
    """Share of the lines (0 to 1; empty ones not counted) that are identified as another language."""
    found = [_library().classify(line)[0] for line in lines if line.strip()]
    return sum(label not in accepted and label != NO_LANGUAGE for label in found) / max(len(found), 1)


def compute(corpus: Corpus) -> Score | None:
    """The off-target rate, 0 to 1, or None for a target language that the library does not know."""
    accepted = labels(corpus.target_language)
    if not accepted:
        return None
    floor = share_of_others(corpus.references, accepted)
    signature = f"py3langid:{metadata.version('py3langid')}|label:{'+'.join(sorted(accepted))}|references:{floor:.3f}"
    return Score(share_of_others(corpus.hypotheses, accepted), signature)


METRIC = Metric(
    "off_target",
    "off-target",
    "fraction of outputs that py3langid takes for another language than the target; null: a language it does not know",
    2,
    compute,
    check,
    optional=True,
)
