"""Parallel text that the user supplies, to translate and score instead of a split of the data folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.generation.command import read_chunks
from smoe_mt.inputs import STDIN, open_input, title_of


@dataclass(frozen=True)
class ParallelFiles:
    """Two files of raw text, line i of one belonging to line i of the other."""

    source: Path
    reference: Path
    direction: str

    def read(self, directions: Sequence[str]) -> Corpus:
        """The lines as a corpus without hypotheses.

        Raises UserError for a direction that is not one of `directions` (the model's), for files that are missing, empty, of
        different length or not UTF-8.
        """
        if self.direction not in directions:
            raise UserError(f"unknown direction {self.direction!r}: the model knows {', '.join(directions)}")
        sources, references = self.lines
        return Corpus(self.direction, tuple(sources), (), tuple(references))

    @cached_property
    def lines(self) -> tuple[list[str], list[str]]:
        """The lines of both files, read once: they may be pipes. Raises UserError as `read` does for them."""
        if str(self.source) == str(self.reference) == STDIN:
            raise UserError(
                "--source and --reference: both are standard input, which holds one text; name a file for one"
            )
        sources, references = _read_lines(self.source), _read_lines(self.reference)
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


def _read_lines(path: Path) -> list[str]:
    with open_input(path) as stream:
        return [line for lines in read_chunks(stream, title_of(path)) for line in lines]
