"""Reading what is to be translated."""

from __future__ import annotations

import io
import os
import threading

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation.command import gathered, read_chunks


def lines_of(content: bytes, size: int = 1 << 18) -> list[str]:
    return [line for chunk in read_chunks(io.BytesIO(content), "input", size) for line in chunk]


def test_lines_with_and_without_a_last_line_feed() -> None:
    assert lines_of(b"one\n\ntwo") == ["one", "", "two"]
    assert lines_of(b"one\n\ntwo\n") == ["one", "", "two"]


def test_nothing_gives_no_lines() -> None:
    assert lines_of(b"") == []


def test_only_a_line_feed_ends_a_line() -> None:
    assert lines_of("a\u2028b\x85c\x0cd\r\ne\n".encode()) == ["a\u2028b\x85c\x0cd", "e"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_lines_are_whole_however_the_bytes_come(size: int) -> None:
    assert lines_of("dumêla lefase\nšoro\n".encode(), size) == ["dumêla lefase", "šoro"]


def test_broken_utf8_names_the_line() -> None:
    with pytest.raises(UserError, match="input, line 3: not UTF-8"):
        lines_of(b"one\ntwo\nthr\xff\nfour\n", size=5)


def test_a_line_in_a_pipe_is_there_before_the_next_is_written() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        os.write(writing, b"one\n")
        timer = threading.Timer(10, os.close, [writing])  # lets the test fail instead of hang
        timer.start()
        assert next(read_chunks(stream, "pipe")) == ["one"]
        assert timer.is_alive()
        timer.cancel()
        os.close(writing)


def test_lines_gathered_for_a_batch() -> None:
    chunks = [["a"], ["b", "c", "d"], [], ["e"]]
    assert list(gathered(chunks, 3)) == [["a", "b", "c", "d"], ["e"]]
    assert list(gathered(iter(chunks), 1)) == [["a"], ["b", "c", "d"], ["e"]]
