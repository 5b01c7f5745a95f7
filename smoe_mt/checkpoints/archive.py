"""Accepts the zip archives that ``torch.save`` writes and no others: entries without compression or overlap, each once.

torch maps or copies the bytes of an entry from where its own header says, compressed or not, and looks at no checksum. So
an archive is read only where there is one way to read it.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from smoe_mt.errors import UserError
from smoe_mt.files import open_plain

BLOCK = 1 << 20
END = struct.Struct("<4s4H2LH")
#: signature, version, flags, method, time, date, CRC, compressed and plain size, lengths of name and extra field
HEADER = struct.Struct("<4s5H3L2H")
SIZES_BEHIND = 0x08  # flag: header without CRC and sizes, which follow the entry
ENCRYPTED = 0x41
LARGE = 0xFFFFFFFF  # size of an entry that has its real one in the extra field


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does, which is what torch goes by."""
    with open_plain(path) as stream:
        return stream.read(4) == b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Look at all headers. zipfile.BadZipFile for one that is damaged or is not torch's, UserError for compressed ones."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UserError(
                f"{path}: it was zipped again with compression, and torch would take the compressed bytes for tensors; unpack "
                "it and zip it without (zip -0), or take the original"
            )
        stream.seek(-END.size, 2)
        if archive.comment or not stream.read(4) == b"PK\x05\x06":
            raise zipfile.BadZipFile("something follows the end of the archive")
        names = [entry.filename.lower() for entry in archive.infolist()]  # torch looks them up so
        if len(set(names)) < len(names):
            raise zipfile.BadZipFile("an entry is there twice")
        free = 0
        for entry in sorted(archive.infolist(), key=lambda one: one.header_offset):
            if entry.header_offset < free or (free == 0 and entry.header_offset):
                raise zipfile.BadZipFile(f"{entry.filename} overlaps another entry")
            free = _check_entry(stream, entry)
        if free > archive.start_dir:
            raise zipfile.BadZipFile("the last entry overlaps the list of entries")


def _check_entry(stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the entry ends. BadZipFile unless its own header says what the list of entries says."""
    stream.seek(entry.header_offset)
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        raise zipfile.BadZipFile(f"{entry.filename} has no header")
    signature, _, flags, method, _, _, crc, compressed, plain, name_length, extra_length = HEADER.unpack(header)
    name = stream.read(name_length).decode("utf-8", "replace")
    same = entry.compress_size == entry.file_size
    same &= signature == b"PK\x03\x04" and method == zipfile.ZIP_STORED and name == entry.filename
    if flags & SIZES_BEHIND:
        same &= (crc, compressed, plain) in ((0, 0, 0), (entry.CRC, entry.file_size, entry.file_size))
    else:
        same &= crc == entry.CRC and {compressed, plain} <= {entry.file_size, LARGE}
    if not same or (flags | entry.flag_bits) & ENCRYPTED:
        raise zipfile.BadZipFile(f"the header of {entry.filename} and the list of entries disagree")
    return entry.header_offset + HEADER.size + name_length + extra_length + entry.file_size


def compare_check_sums(path: Path, progress: Callable[[int], Any]) -> None:
    """Read all entries; `progress` is called with the number of bytes read. zipfile.BadZipFile for one that is not what was written."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                while block := stream.read(BLOCK):
                    progress(len(block))
