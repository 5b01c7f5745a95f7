"""What every corpus offers to the stages that follow."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_prep.directions import Pairs, Selection
from smoe_mt.paper.benchmarks import Benchmark

TRAIN = "train"


@dataclass(frozen=True)
class Request:
    """What a corpus is asked for: ``where`` is what follows its name and a colon, ``minimum`` the clean pairs below
    which a pair will not do (``None``: what the benchmark says), ``skip_bad_lines`` whether lines that cannot be read are
    counted instead of ending the preparation.
    """

    where: str = ""
    benchmark: Benchmark | None = None
    selection: Selection = field(default_factory=Selection)
    minimum: int | None = None
    cache: Path = Path()
    refresh: bool = False
    skip_bad_lines: bool = False


@dataclass(frozen=True)
class SourceRecord:
    """Where text came from: a package or file, how many pairs of sentences it gave to which pair, and how many of its lines
    could not be read.
    """

    name: str
    version: str
    licence: str
    via: str
    pairs: dict[str, int]
    bad_lines: int = 0


class Corpus(Protocol):
    """Parallel text of several pairs."""

    @property
    def name(self) -> str:
        """Its key in CORPORA."""

    @property
    def benchmark(self) -> str | None:
        """The benchmark it serves, if any."""

    @property
    def pairs(self) -> Pairs:
        """The pairs asked for."""

    @property
    def minimum(self) -> int:
        """Clean pairs of sentences below which a pair will not do; of a benchmark, a pair with English."""

    @property
    def optional(self) -> bool:
        """Whether a pair below the minimum is left out; else it is an error."""

    @property
    def placeholders(self) -> re.Pattern[str]:
        """What both sides of a pair must have alike."""

    def identity(self) -> dict[str, Any]:
        """What was asked for, as JSON, without fetching anything; UserError for bad input that shows at once."""

    def fetch(self) -> dict[str, Any]:
        """Bring the text to this machine and say what it is, as JSON; "missing" lists what could not be had."""

    def extract(self, folder: Path, workers: int) -> list[SourceRecord]:
        """Write ``folder/{split}.{pair}.tsv`` (rows.write_rows): split "train" for what is to be cleaned and split,
        others as they are. No other files.
        """
