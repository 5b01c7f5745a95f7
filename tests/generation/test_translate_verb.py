"""``smoe-mt translate`` as a process that others pipe text through."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from smoe_mt import cli
from tests.conftest import TrainedRun


class Stdin:
    """Standard input that is not a terminal, or is one."""

    def __init__(self, content: bytes, tty: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self.isatty = lambda: tty

    def readline(self) -> str:
        return self.buffer.readline().decode()


def translate(run: TrainedRun, *options: str) -> int:
    return cli.main(["translate", "-m", str(run.folder), "-s", "aa", "-t", "en", "--device", "cpu", *options])


def test_a_line_for_a_line(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:3]
    content = "\n".join([text[0], "", text[1], text[2]])
    monkeypatch.setattr(sys, "stdin", Stdin(content.encode()))
    assert translate(trained_run) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 4 and out.split("\n")[1] == ""
    assert err == ""
    (tmp_path / "in.txt").write_text(content)
    assert translate(trained_run, str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.txt")) == 0
    assert (tmp_path / "out.txt").read_text() == out


def test_a_prompt_for_a_person(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"fofo fila\n\n", tty=True))
    assert translate(trained_run) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err.count("aa-en> ") == 3


def test_a_line_that_is_not_utf8(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"fofo\n\xff\n")
    assert translate(trained_run, str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.txt")) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'in.txt'}, line 2: not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_a_missing_file_is_said_at_once(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert translate(trained_run, "/no/such/file") == 2
    assert capsys.readouterr().err == "error: /no/such/file: no such file\n"


def test_an_output_that_cannot_be_written(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("fofo\n")
    assert translate(trained_run, str(tmp_path / "in.txt"), "-o", str(tmp_path / "no" / "out.txt")) == 2
    assert "out.txt: cannot be written" in capsys.readouterr().err
