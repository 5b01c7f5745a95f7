"""Reading what is to be translated."""

from __future__ import annotations

import io
import os
import threading

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation.lines import LONGEST_LINE, gathered, read_chunks


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


class Endless(io.BytesIO):
    """A stream without a line feed, which counts what was taken of it."""

    taken = 0

    def read1(self, size: int | None = -1) -> bytes:
        assert size is not None and size > 0
        self.taken += size
        return b"x" * size


def test_a_line_that_never_ends_is_an_error_before_it_fills_the_memory() -> None:
    stream = Endless()
    with pytest.raises(UserError, match=r"pipe, line 1: longer than 1,048,576 bytes"):
        list(read_chunks(stream, "pipe"))
    assert stream.taken < 2 * LONGEST_LINE


def test_a_line_that_is_too_long_is_named_by_its_number() -> None:
    with pytest.raises(UserError, match=r"pipe, line 3: longer"):
        list(read_chunks(io.BytesIO(b"a\nb\n" + b"x" * (LONGEST_LINE + 1) + b"\nc\n"), "pipe", 1 << 22))


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
