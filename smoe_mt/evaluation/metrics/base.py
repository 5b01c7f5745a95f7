"""What a metric sees and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """One direction of a split, raw text, line by line: the three have the same length."""

    direction: str
    sources: tuple[str, ...]
    hypotheses: tuple[str, ...]
    references: tuple[str, ...]

    @property
    def target_language(self) -> str:
        """The language of hypotheses and references."""
        return self.direction.split("-")[1]


@dataclass(frozen=True)
class Score:
    """`signature` says how the value was computed, for a metric that others compute too."""

    value: float
    signature: str | None = None


@dataclass(frozen=True)
class Metric:
    """`name` is its key in scores.json, `title` its column in tables, shown with `decimals`."""

    name: str
    title: str
    meaning: str
    decimals: int
    compute: Callable[[Corpus], Score]
