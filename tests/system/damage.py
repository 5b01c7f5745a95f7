"""Files that are damaged for a moment, each way by a name and a number, so that it can be done again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Way = Callable[[bytes, random.Random], bytes]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 10))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return (
        content[:place]
        + rng.choice((b"\x00", b"\xff", b"\t", b"\n", b"'", b"\xe2\x80\xa8", b"\r", b"{", b"["))
        + content[place:]
    )


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines[: rng.randrange(len(lines) + 1)])


def _value(content: bytes, rng: random.Random) -> bytes:
    """Another value somewhere in a JSON file; another number in other text."""
    other = rng.choice((None, -1, 1e308, "x", [], {}, True, 10**20, "../../x"))
    try:
        value = json.loads(content)
    except ValueError:
        words = content.split(b" ")
        words[rng.randrange(len(words))] = json.dumps(other).encode()
        return b" ".join(words)
    here = value
    while isinstance(here, dict | list) and here:
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        if not isinstance(here[key], dict | list) or rng.random() < 0.3:
            here[key] = other
            break
        here = here[key]
    return json.dumps(value).encode()


WAYS: Mapping[str, Way] = {
    "flip": _flip,
    "cut": _cut,
    "insert": _insert,
    "lines": _lines,
    "value": _value,
    "empty": lambda content, rng: b"",
    "binary": lambda content, rng: rng.randbytes(rng.randrange(1, 200)),
    "deep": lambda content, rng: b"[" * 100_000,
    "object": lambda content, rng: rng.choice((b"{}", b"[]", b"null", b"1", b'"x"', b"NaN")),
    "long line": lambda content, rng: b"a" * 1_000_000,
}
#: What stands in the file's place instead.
IN_PLACE: Mapping[str, Callable[[Path], None]] = {
    "gone": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
}
NAMES = (*WAYS, *IN_PLACE)


@contextmanager
def damaged(file: str, how: str) -> Iterator[None]:
    """The file damaged in a way of ``NAMES``, as in "flip 17"; as it was when the block ends. Without a file, nothing."""
    if not file:
        yield
        return
    path, (way, _, number) = Path(file), how.rpartition(" ")
    content = path.read_bytes()
    path.unlink()
    if way in IN_PLACE:
        IN_PLACE[way](path)
    else:
        path.write_bytes(WAYS[way](content, random.Random(int(number))))
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
