"""Names of text files, compressed or not, and their lines as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smoe_mt.inputs import COMPRESSIONS, open_input

SUFFIXES = tuple(one.suffix for one in COMPRESSIONS)
UNREAD = (".bz2", ".zip", ".7z", ".lz4", ".br", ".rar", ".tar", ".tgz")  # compressions that are not read


def without_compression(name: str) -> str:
    """A file's name without the suffix of a compression that is read."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, decompressed, with their ends. UserError for a damaged one."""
    with open_input(path) as stream:
        yield from stream
