"""What one request, and one client, may ask for; and how a request is refused."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.inputs import open_input

MOST_CLIENTS = 10_000  # that are remembered, those last seen
LONGEST_KEY = 1024


class Refused(Exception):
    """A request that gets no translation: the HTTP status, one line that says why, and after how many seconds to come again."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True)
class Limits:
    """Of one request: characters of text, lines, seconds until its answer, seconds until it has been sent whole."""

    characters: int = 20_000
    lines: int = 500
    seconds: float = 60.0
    seconds_to_send: float = 20.0

    @property
    def bytes(self) -> int:
        """Of a request's body: JSON may write a character as two escapes of 6 bytes."""
        return 12 * self.characters + (64 << 10)


@dataclass
class RateLimiter:
    """At most `per_minute` requests of a client in a minute (0: any number), which may come at once."""

    per_minute: int = 0
    now: Callable[[], float] = time.monotonic
    #: Client -> requests left, and when they were counted.
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def check(self, client: str) -> None:
        """Count a request. Raises Refused (429) for one too many."""
        if not self.per_minute:
            return
        now, second = self.now(), self.per_minute / 60
        left, counted = self._left.pop(client, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - counted) * second)
        self._left[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        if left < 1:
            raise Refused(429, f"more than {self.per_minute} requests a minute", retry_after=(1 - left) / second)


class Keys:
    """The API keys that open the server; without any it is open to all. Their hashes are kept, not the keys."""

    def __init__(self, keys: list[str]) -> None:
        self._hashes = {_hash(key) for key in keys}

    @classmethod
    def read(cls, path: str | Path | None) -> Keys:
        """A key a line; empty lines and those after # are left out. UserError for a file without keys."""
        if path is None:
            return cls([])
        with open_input(path) as stream:
            try:
                lines = stream.read(1 << 20).decode("utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: not UTF-8; write one API key a line") from error
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise UserError(f"{path}: no API key in it; write one a line")
        return cls(keys)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._hashes)

    def check(self, key: str | None) -> None:
        """Raises Refused (403) where a key is needed and this is none."""
        if not self.required:
            return
        if not key:
            raise Refused(403, "this server needs an API key: send it as api_key")
        if len(key) > LONGEST_KEY or _hash(key) not in self._hashes:
            raise Refused(403, "unknown API key")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
