"""Parallel text that the user supplies, to translate and score instead of a split of the data folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.generation.lines import read_lines
from smoe_mt.inputs import STDIN, check_not_one_stream


@dataclass(frozen=True)
class ParallelFiles:
    """Two files of raw text, line i of one belonging to line i of the other."""

    source: Path
    reference: Path
    direction: str

    def read(self) -> Corpus:
        """The lines as a corpus without hypotheses.

        Raises UserError for files that are missing, empty, of different length or not UTF-8.
        """
        sources, references = self.lines
        return Corpus(self.direction, tuple(sources), (), tuple(references))

    @cached_property
    def lines(self) -> tuple[list[str], list[str]]:
        """The lines of both files, read once: they may be pipes. Raises UserError as `read` does."""
        check_not_one_stream({"--source": self.source, "--reference": self.reference})
        sources, references = read_lines(self.source), read_lines(self.reference)
        if len(sources) != len(references):
            raise UserError(
                f"{self.source} has {len(sources)} lines and {self.reference} has {len(references)}: "
                "line i of one must belong to line i of the other"
            )
        if not sources:
            raise UserError(f"{self.source} is empty: there is nothing to translate")
        return sources, references

    @property
    def title(self) -> str:
        """A short name, which no split has."""
        return f"{'stdin' if str(self.source) == STDIN else self.source.name}.{self.direction}"
