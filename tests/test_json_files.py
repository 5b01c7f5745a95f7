"""Reading JSON of elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smoe_mt import json_files
from smoe_mt.errors import UserError
from smoe_mt.json_files import parse_json, read_json, read_json_object


def test_a_value(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ü": [1, 2.5, null, true]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ü": [1, 2.5, None, True]}


@pytest.mark.parametrize(
    "content, says",
    [
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 900 + b"]" * 900, "nested deeper"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "nested deeper"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
    ],
)
def test_what_is_none_is_told_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, "fetch it again")
    message = str(error.value)
    assert says in message and message.startswith(f"{path}: ") and message.endswith("; fetch it again")
    assert len(message) < 500 and "\n" not in message


def test_as_deep_as_is_allowed() -> None:
    assert parse_json("[" * json_files.DEEPEST + "]" * json_files.DEEPEST)
    with pytest.raises(ValueError, match="deeper"):
        parse_json("[" * (json_files.DEEPEST + 2) + "]" * (json_files.DEEPEST + 2))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MOST_BYTES", 10)
    (tmp_path / "a.json").write_text('"0123456789"')
    with pytest.raises(UserError, match="more than"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["missing.json", "folder"])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_json(tmp_path / name)


def test_an_object_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="no JSON object"):
        read_json_object(tmp_path / "a.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match="a.json: cannot be read .it is a pipe, no file.; write it again"):
        read_json(tmp_path / "a.json")
