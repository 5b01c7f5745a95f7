"""Text that a person named as input: a file, a link to one, a pipe, a device, "-" for standard input; compressed or not.

What a file begins with says how it is compressed, not its name: pipes have none. No text in UTF-8 begins as these do.
"""

from __future__ import annotations

import errno
import io
import lzma
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from smoe_mt.errors import UserError
from smoe_mt.files import kind_of

STDIN = "-"
ALL_STDIN = (STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
BLOCK = 1 << 12  # compressed bytes at a time: even what was made to burst has room in memory then


class CannotRead(UserError, OSError):
    """A file that cannot be read: one line for the person, the errno for code."""

    def __init__(self, path: str, code: int | None, reason: str) -> None:
        super().__init__(path, code, reason)
        self.errno, self.strerror, self.filename = code, reason, path

    def __str__(self) -> str:
        return f"{self.filename}: cannot be read ({self.strerror})"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Make CannotRead of an OSError in the block."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise CannotRead(name, error.errno, error.strerror or str(error)) from error


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of the text at `path`, decompressed, to read once and from the start. CannotRead, and UserError for a damaged
    file, here and while it is read.
    """
    name = title_of(path)
    with _opened(str(path), name) as plain:
        with reading(name):
            head = plain.peek(BLOCK)
        compression = next((one for one in COMPRESSIONS if one.begins.match(head)), None)
        # A reader of its own in any case: a buffer takes what is there, however little, so that a pipe flows.
        raw = _Unpacked(plain, compression, name) if compression else _Named(plain, name)
        yield cast(BinaryIO, io.BufferedReader(raw, 1 << 16))


def check_input(path: str | Path) -> None:
    """What `open_input` would raise, before there is work to lose; a pipe is left as it is."""
    if str(path) == STDIN:
        _standard_input()
    elif not is_stream(path) or Path(path).is_dir():
        with open_input(path):
            pass


def title_of(path: str | Path) -> str:
    """What an input is called in messages."""
    return "standard input" if str(path) == STDIN else str(path)


def check_not_one_stream(given: Mapping[str, str | Path]) -> None:
    """UserError where inputs (argument -> path) are all standard input: the first would leave nothing to the others."""
    if all(str(path) in ALL_STDIN for path in given.values()):
        raise UserError(f"{' and '.join(given)}: both are standard input, which holds one text; name a file for one")


def is_stream(path: str | Path) -> bool:
    """Whether an input can be read but once."""
    with suppress(OSError):
        return str(path) == STDIN or not stat.S_ISREG(Path(path).stat().st_mode)
    return False


def no_such(path: str | Path, wanted: str) -> str:
    """What is wrong with a path where `wanted` ("data folder") was expected, to begin a message with."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        return f"{path}: no {wanted}, but {'a file' if stat.S_ISREG(mode) else kind_of(mode)}"
    except OSError as error:
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            return f"{path}: a link to {path.readlink()}, which is not there"
        return f"{path}: no such {wanted}" + ("" if isinstance(error, FileNotFoundError) else f" ({error.strerror})")


@contextmanager
def _opened(path: str, name: str) -> Iterator[io.BufferedReader]:
    if path != STDIN:
        try:
            with reading(name):
                file = open(path, "rb")  # noqa: SIM115 - closed below; what is done with it is not reading
        except CannotRead as error:
            if error.errno in (errno.ENOENT, errno.EISDIR):
                raise UserError(no_such(path, "file")) from error
            raise
        with file as handle:
            yield handle
        return
    stream = _standard_input()
    yield stream if hasattr(stream, "peek") else io.BufferedReader(stream)


def _standard_input() -> Any:
    if sys.stdin is None:
        raise UserError("standard input is closed; name a file, or pipe the text in")
    return sys.stdin.buffer


class _Named(io.RawIOBase):
    """A stream whose faults name it."""

    def __init__(self, stream: io.BufferedReader, name: str) -> None:
        self.stream, self.name = stream, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with reading(self.name):
            data = self.stream.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Unpacked(_Named):
    """The text of a compressed stream, which may be several in a row."""

    def __init__(self, stream: io.BufferedReader, compression: Compression, name: str) -> None:
        super().__init__(stream, name)
        self.compression, self.unpacker = compression, compression.unpacker(name)
        self.ready = b""

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            with reading(self.name):
                block = self.stream.read1(BLOCK)
            if not block:
                if self.unpacker is not None and not self.unpacker.eof:
                    raise self.damaged("it ends too early")
                return 0
            self.ready = self._unpack(block)
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size

    def _unpack(self, block: bytes) -> bytes:
        unpacked = []
        while block:
            if self.unpacker is None or self.unpacker.eof:
                block = block.lstrip(b"\0")  # which may stand between and behind the parts
                if not block:
                    break
                self.unpacker = self.compression.unpacker(self.name)
            try:
                unpacked.append(self.unpacker.decompress(block))
            except Exception as error:  # each library has its own, and zstandard need not be there
                raise self.damaged(str(error)) from error
            block = self.unpacker.unused_data if self.unpacker.eof else b""
        return b"".join(unpacked)

    def damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.name}: a damaged {self.compression.suffix} file ({reason}); take it anew from its source"
        )


class Compression:
    """What its files begin with, and what unpacks one; `suffix`: of their names."""

    def __init__(self, suffix: str, begins: bytes, unpacker: Callable[[str], Any]) -> None:
        self.suffix, self.begins, self.unpacker = suffix, re.compile(begins, re.DOTALL), unpacker


def _zstandard(name: str) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"{name}: .zst files need another library: pip install 'smoe_mt[zst]', or unpack the file"
        ) from error
    return zstandard.ZstdDecompressor().decompressobj()


COMPRESSIONS = (
    Compression(".gz", rb"\x1f\x8b", lambda _: zlib.decompressobj(wbits=31)),
    Compression(".xz", rb"\xfd7zXZ\x00", lambda _: lzma.LZMADecompressor()),
    Compression(
        ".zst", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _zstandard
    ),  # the latter: a part to be passed over
)
