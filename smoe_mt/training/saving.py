"""Writes a checkpoint whole or not at all, and reports why a write failed."""

from __future__ import annotations

import errno
from typing import Any, BinaryIO

import torch

from smoe_mt.files import atomic_file

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NoticingFile:
    """Keeps the OSError of a write, of which torch.save makes an error of its own that no longer says what it was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """As a file's."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As a file's."""
        self._file.flush()


def save_whole(state: Any, filename: str) -> None:
    """torch.save, whole or not at all. OSError where the file cannot be written."""
    with atomic_file(filename) as file:
        noticing = NoticingFile(file)
        try:
            torch.save(state, noticing)  # type: ignore[arg-type]  # of a file it only needs these two
        except Exception as error:
            if noticing.error is not None:
                raise noticing.error from error
            raise
