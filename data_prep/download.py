"""Downloads into a cache: interrupted ones are resumed, checksums are compared, and no file is ever half there.

Beside ``NAME`` stands ``NAME.json`` with the URL, size and SHA-256 of the file when it came; ``NAME.part`` is what there
is of one that broke off.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.files import DISK_FULL, read_json
from smoe_mt.checksums import sha256_file
from smoe_mt.errors import UserError
from smoe_mt.files import write_json

BLOCK = 1 << 20
TIME_LIMIT_S = 60
TRIES = 3


class NotThere(Exception):
    """The server has no such file."""


@dataclass(frozen=True)
class Download:
    """A file in the cache."""

    url: str
    path: Path
    size: int
    sha256: str


def cached(url: str, path: Path) -> Download | None:
    """The file, if it is there whole; UserError if it is not what came from the server."""
    record = read_json(_record_of(path))
    if not path.is_file() or not isinstance(record, dict) or record.get("url") != url:
        return None
    found = sha256_file(path)
    if found != record.get("sha256"):
        raise UserError(
            f"{path} has the checksum {found[:16]}..., not {str(record.get('sha256'))[:16]}... as when it was downloaded "
            "from " + url + ": it was changed or damaged; move it away and run again"
        )
    return Download(url, path, int(record["size"]), found)


def remote_size(url: str) -> int | None:
    """Bytes, without downloading; ``None`` if the server does not say. NotThere, or UserError without a network."""
    try:
        with _open(urllib.request.Request(url, method="HEAD")) as answer:
            length = answer.headers.get("Content-Length")
    except _NotAnswered:
        return None
    return int(length) if length is not None else None


def left_to_fetch(path: Path, size: int | None) -> int:
    """Bytes of a file of a known size that are not on the disk yet."""
    part = _part_of(path)
    return max(0, (size or 0) - (part.stat().st_size if part.is_file() else 0))


def download(url: str, path: Path, expected: str | None = None) -> Download:
    """Bring a file, going on where an earlier try broke off. ``expected``: its SHA-256, if that is known before.

    NotThere, or UserError without a network, for a full disk, and for another checksum (what came is kept beside).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    for attempt in range(TRIES):
        if _fetch(url, part, path.name):
            break
        if attempt == TRIES - 1:
            raise UserError(f"{url}: the connection broke {TRIES} times; run again to continue the download")
    found = sha256_file(part)
    if expected is not None and found != expected:
        wrong = path.with_name(path.name + ".wrong")
        os.replace(part, wrong)
        raise UserError(f"{url} has the checksum {found}, not {expected} as expected; it is kept as {wrong}")
    record = {"url": url, "size": part.stat().st_size, "sha256": found}
    _tag_of(path).unlink(missing_ok=True)
    _flush(part)
    os.replace(part, path)
    write_json(_record_of(path), record)
    return Download(url, path, path.stat().st_size, found)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _tag_of(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _fetch(url: str, part: Path, name: str) -> bool:
    """Append what is missing to ``part``; whether all is there. A file that changed on the server starts anew."""
    tag_file = part.with_name(part.name + ".json")
    tag = str((read_json(tag_file) or {}).get("tag") or "") if part.is_file() else ""
    start = part.stat().st_size if tag else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-", "If-Range": tag} if start else {})
    try:
        answer = _open(request)
    except _NothingLeft:
        return True
    with answer:
        start = start if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = answer.headers.get("Content-Length")
        end = None if length is None else start + int(length)
        new_tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        write_json(tag_file, {"url": url, "tag": new_tag})
        with (
            open(part, "ab" if start else "wb") as out,
            tqdm(total=end, initial=start, desc=name, unit="B", unit_scale=True) as bar,
        ):
            try:
                _copy(answer, out.write, bar)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise
                return False
    return end is None or part.stat().st_size == end


def _copy(answer: Any, write: Callable[[bytes], int], bar: Any) -> None:
    while block := answer.read(BLOCK):
        write(block)
        bar.update(len(block))


class _NothingLeft(Exception):
    """What is asked for begins after the end of the file."""


class _NotAnswered(Exception):
    """The server does not answer this kind of request."""


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIME_LIMIT_S)
    except urllib.error.HTTPError as error:
        if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
            raise NotThere(request.full_url) from error
        if error.code in (http.HTTPStatus.METHOD_NOT_ALLOWED, http.HTTPStatus.NOT_IMPLEMENTED):
            raise _NotAnswered from error
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _NothingLeft from error
        raise UserError(f"{request.full_url}: the server says {error.code} {error.reason}; run again later") from error
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{request.full_url} cannot be reached ({reason}): is there a network? What was fetched stays; run again"
        ) from error
