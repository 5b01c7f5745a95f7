"""What travels between the stages: rows of parallel text, and the names of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from data_prep.files import read_lines
from smoe_mt.files import write_lines
from smoe_mt.language_codes import is_english


class Row(NamedTuple):
    """One pair of sentences: where it is from, and the text in the pair's first and second language."""

    source: str
    first: str
    second: str


def languages_of(pair: str) -> tuple[str, str]:
    """("nso", "en") of "nso-en"."""
    first, second = pair.split("-")
    return first, second


def key_side(pair: str) -> int:
    """Which side (0 or 1) is the one whose strings decide what is held out: English, else the first."""
    return 1 if is_english(languages_of(pair)[1]) else 0


def hash_of(*texts: str) -> int:
    """64 bits that stand for some strings; no two of a hundred million are alike, with a chance of 0.9997."""
    return int.from_bytes(blake2b("\t".join(texts).encode(), digest_size=8).digest(), "little")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as lines of three columns."""
    write_lines(path, ("\t".join(row) for row in rows))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows that ``write_rows`` wrote."""
    for line in read_lines(path):
        yield Row(*line.split("\t"))
