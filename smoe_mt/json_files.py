"""How every part of the project reads JSON: bounded in size and depth, with errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.files import open_plain

MOST_BYTES = 64 << 20
DEEPEST = 50  # brackets within brackets; no file of this project comes near


def read_json(path: str | Path, remedy: str = "write it again") -> Any:
    """The value in a JSON file. Raises UserError, with the `remedy`, for a file that is not there, too large, or
    no JSON.
    """
    path = Path(path)
    try:
        with open_plain(path) as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def read_json_object(path: str | Path, remedy: str = "write it again") -> dict[str, Any]:
    """As `read_json`, of a file that holds an object. UserError for one that holds another value."""
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; {remedy}")
    return value


def parse_json(content: str | bytes) -> Any:
    """The value of JSON text (bytes: UTF-8). Raises ValueError, in one line, for text that is no JSON or too large or deep."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB of JSON")
    try:
        value = json.loads(content.decode("utf-8") if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError(f"JSON nested deeper than {DEEPEST}") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({str(error)[:200]})") from error
    _check(value)
    return value


def _check(value: Any) -> None:
    """ValueError for a value that is too deep, or has half a character in it, which nothing could print."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"JSON nested deeper than {DEEPEST}")
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.keys()
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str) and not one.isascii():
                _check_text(one)
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("not valid JSON (a surrogate that stands alone)") from None
