"""Rates and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.serving import limits
from smoe_mt.serving.limits import Keys, Limits, RateLimiter, Refused


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_one_request_too_many_is_refused_until_time_has_passed() -> None:
    clock = Clock()
    limiter = RateLimiter(2, clock)
    limiter.check("a")
    limiter.check("a")
    with pytest.raises(Refused, match="more than 2 requests a minute") as refused:
        limiter.check("a")
    assert refused.value.status == 429 and refused.value.retry_after == pytest.approx(30)
    limiter.check("b")
    clock.seconds = 30.5
    limiter.check("a")
    with pytest.raises(Refused):
        limiter.check("a")


def test_no_rate_is_no_limit() -> None:
    limiter = RateLimiter()
    for _ in range(1000):
        limiter.check("a")


def test_clients_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_CLIENTS", 3)
    limiter = RateLimiter(1)
    for client in range(10):
        limiter.check(str(client))
    assert list(limiter._left) == ["7", "8", "9"]


def test_keys_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nsecret\n\n other \n")
    keys = Keys.read(tmp_path / "keys")
    keys.check("secret")
    keys.check("other")
    for wrong, match in ((None, "needs an API key"), ("# ours", "unknown API key"), ("x" * 5000, "unknown API key")):
        with pytest.raises(Refused, match=match) as refused:
            keys.check(wrong)
        assert refused.value.status == 403


def test_without_a_file_no_key_is_needed() -> None:
    assert not Keys.read(None).required
    Keys.read(None).check(None)


@pytest.mark.parametrize(("content", "match"), [(b"\n# none\n", "no API key"), (b"\xff\n", "not UTF-8")])
def test_a_file_without_keys_is_an_error(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UserError, match=match):
        Keys.read(tmp_path / "keys")


def test_a_body_may_hold_the_text_however_it_is_escaped() -> None:
    assert Limits(characters=100).bytes > 100 * len("\\ud83d\\ude00")
