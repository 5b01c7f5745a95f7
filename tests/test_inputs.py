"""Any readable text is an input, and what cannot be read is said as it is."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from smoe_mt.errors import UserError
from smoe_mt.inputs import STDIN, check_not_one_stream, is_stream, no_such, open_input

zstandard = pytest.importorskip("zstandard")
TEXT = "å\n".encode() * 5000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def read(path: str | Path) -> bytes:
    with open_input(path) as stream:
        return stream.read()


@pytest.mark.parametrize("kind", COMPRESS)
def test_several_compressed_parts_are_one_text(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(COMPRESS[kind](TEXT) + COMPRESS[kind](b"last\n"))
    assert read(tmp_path / "text") == TEXT + b"last\n"


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_text_that_ends_too_early_is_no_shorter_text(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(COMPRESS[kind](TEXT)[:-5])
    with pytest.raises(UserError, match=rf"text: a damaged \.{kind} file \(it ends too early\)"):
        read(tmp_path / "text")


@pytest.mark.parametrize("kind", COMPRESS)
def test_junk_behind_a_compressed_text_is_no_text(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(COMPRESS[kind](TEXT) + b"junk")
    with pytest.raises(UserError, match=rf"a damaged \.{kind} file"):
        read(tmp_path / "text")


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT, mtime=0)], ids=["plain", "gz"])
def test_a_pipe_is_read(content: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert read(tmp_path / "pipe") == TEXT
    writer.join()


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(TEXT))))
    assert read(STDIN) == TEXT
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        read(STDIN)


def test_a_folder_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file, but a folder"):
        read(tmp_path)


def test_what_stands_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("gone")
    assert no_such(link, "file") == f"{link}: a link to gone, which is not there"
    assert no_such(tmp_path, "file") == f"{tmp_path}: no file, but a folder"
    assert no_such(tmp_path / "gone", "file") == f"{tmp_path / 'gone'}: no such file"
    assert is_stream("/dev/null") and not is_stream(tmp_path / "gone")


@pytest.mark.parametrize("other", [STDIN, "/dev/stdin"])
def test_two_inputs_cannot_both_be_standard_input(other: str) -> None:
    check_not_one_stream({"--prefix-file": STDIN, "input": "text"})
    with pytest.raises(UserError, match="--prefix-file and input: both are standard input"):
        check_not_one_stream({"--prefix-file": STDIN, "input": other})
