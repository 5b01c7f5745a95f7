"""One file of binarised sentences (fairseq's `mmap` layout), mapped and never read as a whole.

fairseq's own reader runs once through every .bin when it opens it, which for a large corpus means minutes and a cold page
cache. This one looks at the head of the index, checks that both files have the size that the index promises, and maps them.

Layout of PREFIX.idx: 9 magic bytes, version (u64), type code (u8), number of sentences n (u64), sizes int32[n] in tokens,
offsets int64[n] in bytes. PREFIX.bin: the sentences, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from smoe_mt.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
HEAD = struct.Struct("<9sQBQ")
TOKEN_TYPES: dict[int, type[np.integer]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
    9: np.uint32,
    10: np.uint64,
}
REMEDY = "prepare the data folder again"


class TokenFile:
    """The sentences of `prefix`.bin and `prefix`.idx, as token ids.

    Can be pickled and sent to a loader's worker: only the path travels. Raises UserError when a file is missing, is not of
    this layout, or is shorter or longer than the index says.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        self._open()

    def _open(self) -> None:
        index, data = self._path("idx"), self._path("bin")
        self._tokens_type, self._length = self._read_head(index)
        expected = HEAD.size + self._length * 12
        _check_size(index, expected)
        index_bytes = _mapped(index)
        offsets_at = HEAD.size + self._length * 4
        #: int32[n], tokens of each sentence, </s> included.
        self.sizes: np.ndarray = index_bytes[HEAD.size : offsets_at].view(np.int32)
        self._offsets = index_bytes[offsets_at:].view(np.int64)
        bytes_in_bin = 0
        if self._length:
            bytes_in_bin = int(self._offsets[-1]) + int(self.sizes[-1]) * self._width
        _check_size(data, bytes_in_bin)
        self._data = _mapped(data)

    @property
    def dtype(self) -> np.dtype:
        """Integer type of the tokens in the file."""
        return np.dtype(self._tokens_type)

    @property
    def _width(self) -> int:
        return self.dtype.itemsize

    def _path(self, extension: str) -> Path:
        path = self.prefix.with_name(f"{self.prefix.name}.{extension}")
        if not path.is_file():
            raise UserError(f"{path} is missing: {REMEDY}")
        return path

    @staticmethod
    def _read_head(index: Path) -> tuple[type[np.integer], int]:
        with index.open("rb") as stream:
            head = stream.read(HEAD.size)
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            raise UserError(f"{index} is not the index of a binarised file, or is cut short: {REMEDY}")
        _, version, code, length = HEAD.unpack(head)
        if version != 1 or code not in TOKEN_TYPES:
            raise UserError(f"{index} has an unknown layout (version {version}, type {code}): {REMEDY}")
        return TOKEN_TYPES[code], length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, line: int) -> np.ndarray:
        """int[tokens] of one sentence, a view into the file (in the file's own integer type)."""
        size = int(self.sizes[line]) * self._width
        offset = int(self._offsets[line])
        return self._data[offset : offset + size].view(self._tokens_type)

    def chunks(self, lines: int = 2**18) -> Iterator[tuple[int, np.ndarray]]:
        """All tokens in order, `lines` sentences at a time: (sentences, int[tokens] of them, a view into the file)."""
        for first in range(0, self._length, lines):
            last = min(first + lines, self._length) - 1
            begin, end = int(self._offsets[first]), int(self._offsets[last]) + int(self.sizes[last]) * self._width
            yield last + 1 - first, self._data[begin:end].view(self._tokens_type)

    def check_offsets(self, lines: int = 2**20) -> None:
        """Read the whole index. UserError unless each sentence has a token and begins where the one before it ends."""
        begin = 0
        for first in range(0, self._length, lines):
            sizes = self.sizes[first : first + lines].astype(np.int64)
            ends = begin + np.cumsum(sizes) * self._width
            begins = np.concatenate([[begin], ends[:-1]])
            wrong = np.flatnonzero((sizes < 1) | (self._offsets[first : first + lines] != begins))
            if len(wrong):
                raise UserError(
                    f"{self._path('idx')}: sentence {first + int(wrong[0]) + 1:,} has no place of its own in the .bin; {REMEDY}"
                )
            begin = int(ends[-1])

    def __getstate__(self) -> Path:
        return self.prefix

    def __setstate__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._open()


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        what = "cut short" if found < expected else "too long"
        raise UserError(f"{path} is {what}: {found:,} bytes where its index says {expected:,}; {REMEDY}")


def _mapped(path: Path) -> np.ndarray:
    """uint8[bytes of the file], mapped."""
    size = path.stat().st_size
    if size == 0:
        return np.empty(0, dtype=np.uint8)
    try:
        # torch closes the file once it is mapped; numpy keeps it open, and a hundred pairs would meet the limit of a process.
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError:
        # A private mapping larger than the machine's memory is refused by default; a read-only one is not.
        return np.memmap(path, dtype=np.uint8, mode="r")
