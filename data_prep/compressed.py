"""Text files as bytes, compressed or not."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"{path}: .zst files need another library: pip install 'smoe_mt[zst]', or unpack the file"
        ) from error
    return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), closefd=True))


OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile, ".zst": _zstandard}
UNREAD = (".bz2", ".zip", ".7z", ".lz4", ".br", ".rar", ".tar", ".tgz")  # compressions that are not read


def without_compression(name: str) -> str:
    """A file's name without the suffix of a compression that is read."""
    return next((name.removesuffix(suffix) for suffix in OPENERS if name.endswith(suffix)), name)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, decompressed, with their ends. UserError for a damaged one."""
    try:
        with OPENERS.get(path.suffix, lambda plain: open(plain, "rb"))(path) as stream:
            yield from stream
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise damaged(path, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "zstandard":
            raise damaged(path, error) from error
        raise


def damaged(path: Path, error: Exception) -> UserError:
    """What to tell about a compressed file that cannot be read."""
    return UserError(f"{path}: a damaged {path.suffix} file ({error}); fetch it again")
