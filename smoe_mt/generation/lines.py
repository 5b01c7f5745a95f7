"""Lines of text that is to be translated, as they come: from a pipe, a file or a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from smoe_mt.errors import UserError
from smoe_mt.inputs import open_input, title_of

CHUNK_BYTES = 1 << 18
LONGEST_LINE = 1 << 20  # bytes; models take a few hundred tokens, and cut what is longer


def gathered(chunks: Iterable[list[str]], least: int) -> Iterator[list[str]]:
    """The same lines, at least `least` at a time except for the last."""
    waiting: list[str] = []
    for lines in chunks:
        waiting += lines
        if len(waiting) >= least:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def read_chunks(stream: BinaryIO, name: str, size: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """The lines of `stream`, as many at a time as are there already (at most about `size` bytes), so that a pipe flows.

    Only a line feed ends a line. Raises UserError with the number of a line that is not UTF-8, or longer than any sentence.
    """
    rest = b""
    number = 0
    read = getattr(stream, "read1", stream.read)
    while block := read(size):
        *whole, rest = (rest + block).split(b"\n")
        if whole:
            yield decode(whole, name, number)
            number += len(whole)
        if len(rest) > LONGEST_LINE:
            raise _too_long(name, number + 1)
    if rest:
        yield decode([rest], name, number)


def read_lines(path: str | Path) -> list[str]:
    """All lines of a text. UserError for one that cannot be read, and as `read_chunks`."""
    with open_input(path) as stream:
        return [line for lines in read_chunks(stream, title_of(path)) for line in lines]


def _too_long(name: str, number: int) -> UserError:
    return UserError(
        f"{name}, line {number}: longer than {LONGEST_LINE:,} bytes, so no sentence; one sentence a line is translated"
    )


def decode(lines: list[bytes], name: str, before: int) -> list[str]:
    """The lines as text, `before` lines having come earlier. Raises UserError as `read_chunks`."""
    decoded = []
    for offset, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise _too_long(name, before + offset)
        try:
            decoded.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {before + offset}: not UTF-8; convert the text first (iconv -t utf-8)"
            ) from error
    return decoded
