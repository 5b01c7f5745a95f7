"""``smoe-mt translate`` as a process that others pipe text through."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from smoe_mt import cli
from tests.conftest import TrainedRun

COLOUR = r"\x1b\[[0-9;]*m"


class Stdin:
    """Standard input that is not a terminal, or is one."""

    def __init__(self, content: bytes | BinaryIO, tty: bool = False) -> None:
        self.buffer = io.BytesIO(content) if isinstance(content, bytes) else content
        self.isatty = lambda: tty


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
    assert "out.txt: there is no folder" in capsys.readouterr().err


def test_directions_are_shown_and_chosen_at_the_prompt(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = b"fofo fila\nen-bb\nfo\xff\nfofo fila\n"
    monkeypatch.setattr(sys, "stdin", Stdin(typed, tty=True))
    assert cli.main(["translate", "-m", str(trained_run.folder), "--device", "cpu", "--scores"]) == 0
    out, err = capsys.readouterr()
    assert "Directions: aa-en, en-aa, bb-en, en-bb" in err
    assert (err.count("aa-en> "), err.count("en-bb> ")) == (2, 3)
    assert err.count("error: standard input") == 1
    first, second = out.splitlines()
    assert float(first.split("\t")[0]) < 0 and first != second


def converse(
    run: TrainedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    *options: str,
    terminal: bool = False,
) -> tuple[str, str]:
    """What stdout and stderr hold after a conversation, without colours unless stdout is a `terminal`."""
    monkeypatch.setattr(sys, "stdin", Stdin(typed.encode(), tty=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert translate(run, *options) == 0
    out, err = capsys.readouterr()
    return out, err


def test_a_command_has_a_colon_and_its_name_alone_is_translated(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = converse(trained_run, monkeypatch, capsys, "help\n :help\n:help\n:quit\nfofo\n")
    assert out.count("\n") == 2
    assert err.count(":SRC-TGT") == 1 and err.endswith("aa-en> ")


def test_candidates_and_scores_are_switched_at_the_prompt(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "fofo fila\n:nbest 2\n:scores\nfofo fila\n:nbest 1\n:scores\nfofo fila\n"
    out, _ = converse(trained_run, monkeypatch, capsys, typed)
    first, best, second, last = out.splitlines()
    assert first == last == best.split("\t")[2]
    assert float(best.split("\t")[1]) >= float(second.split("\t")[1])


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (":nonsense", "no command :nonsense; :help lists them"),
        (":", "no command :;"),
        (":help me", "no command :help me;"),
        (":nbest", ":nbest needs a whole number from 1 to the beam size, 5"),
        (":nbest 6", ":nbest needs a whole number from 1 to the beam size, 5"),
        (":aa-xx", "unknown language 'xx': the model knows aa, bb, en"),
        (":visits", "visits are colours, which need a terminal as output"),
    ],
)
def test_a_command_that_makes_no_sense_gets_a_line(
    trained_run: TrainedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    answer: str,
) -> None:
    out, err = converse(trained_run, monkeypatch, capsys, f"{command}\n:en-bb\nfofo\n")
    assert f"\nerror: {answer}" in err.replace("aa-en> ", "\n")
    assert out.count("\n") == 1 and "en-bb> " in err


def test_tokens_are_coloured_by_visits_until_that_is_switched_off(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "fofo fila\n\nfofo fila\n:visits\nfofo fila\n"
    out, err = converse(trained_run, monkeypatch, capsys, typed, terminal=True)
    legend, source, target, empty, source_again, target_again, plain = out.splitlines()
    assert re.sub(COLOUR, "", legend) == "visits:  1  2 "
    assert re.sub(COLOUR, "", source) == "fofo fila" and source == source_again
    assert re.sub(COLOUR, "", target) == plain and target == target_again
    assert len(re.findall(COLOUR, target)) >= 2 and empty == "" and "\x1b" not in plain
    assert "tokens are not coloured by visits" in err


def test_json_at_a_terminal_is_not_coloured(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = converse(trained_run, monkeypatch, capsys, ":visits\nfofo\n", "--json", terminal=True)
    assert json.loads(out)["source"] == "fofo"
    assert "error: JSON is not coloured" in err


def test_a_direction_is_needed_where_nobody_types(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"fofo\n"))
    assert cli.main(["translate", "-m", str(trained_run.folder), "--device", "cpu", "-t", "en"]) == 2
    assert "which direction? give --source and --target; the model knows aa-en" in capsys.readouterr().err


def test_what_is_left_out_is_clear_from_the_other_side(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"fofo\n"))
    assert cli.main(["translate", "-m", str(trained_run.folder), "--device", "cpu", "-s", "aa"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_nbest_and_scores(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"fofo fila\n\nfila\n"))
    assert translate(trained_run, "--nbest", "2", "--scores") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "2", "3", "3"]
    assert rows[2] == ["2", "0.0000", ""]
    assert float(rows[0][1]) >= float(rows[1][1])


def test_json_with_visits(
    trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"fofo fila\n\n"))
    assert translate(trained_run, "--routing") == 0
    one, empty = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["source"] == "fofo fila"
    side = one["candidates"][0]["source"]
    assert side["pieces"][0] == "<2en>" and len(side["visits"]["encoder.layers.1"]) == len(side["pieces"])
    assert empty["candidates"] == [{"text": "", "score": 0.0}]


@pytest.mark.parametrize(
    ("option", "value"), [("--nbest", "0"), ("--buffer", "0"), ("--beam", "1e9"), ("--beam", "99999999999")]
)
def test_numbers_that_make_no_sense(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert translate(trained_run, option, value, __file__) == 2
    assert capsys.readouterr().err.startswith(f"error: argument {option}: {value!r} must be a whole number from 1")


def test_more_hypotheses_than_beams(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert translate(trained_run, "--nbest", "6", __file__) == 2
    assert capsys.readouterr().err == "error: --nbest 6: it must be from 1 to --beam, 5\n"


def test_a_pipe_that_stays_open_gets_its_line_at_once(trained_run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    (reading, writing), (back, out) = os.pipe(), os.pipe()
    with open(reading, "rb") as stdin, open(out, "w") as stdout, open(back, "rb") as answers:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin))
        monkeypatch.setattr(sys, "stdout", stdout)
        job = threading.Thread(target=translate, args=(trained_run,))
        timer = threading.Timer(60, os.close, [writing])  # lets the test fail instead of hang
        timer.start()
        job.start()
        os.write(writing, b"fofo fila\n")
        assert answers.readline().endswith(b"\n")
        assert timer.is_alive() and job.is_alive()
        timer.cancel()
        os.close(writing)
        job.join(60)
        assert not job.is_alive()


def test_an_output_that_is_no_plain_file_is_written_to_or_refused(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("fofo\n")
    (tmp_path / "link").symlink_to("end")
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    for name in ("pipe", "link"):
        assert translate(trained_run, str(tmp_path / "in.txt"), "-o", str(tmp_path / name)) == 0
    reader.join()
    assert got == [(tmp_path / "end").read_text()] and (tmp_path / "link").is_symlink()
    assert translate(trained_run, str(tmp_path / "in.txt"), "-o", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is a folder; give the name of a file\n"
