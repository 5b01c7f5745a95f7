"""What people see of a training."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from smoe_mt.training.console import ConsoleHandler, duration, progress
from smoe_mt.training.side_by_side import copy
from tests.test_terminal_lines import Terminal, screen

SIMPLE = "epoch 001:    100 / 2682 loss=11.138, ppl=1972.74, wps=5000, ups=2, num_updates=100, lr=3e-05"
JSON = (
    '{"epoch": 1, "update": 0.04, "loss": "11.138", "ppl": "1972.74", "wps": "5000", "ups": "2", "num_updates": "100"}'
)
VALID = "epoch 001 | valid on 'valid' subset | loss 7.243 | ppl 151.4 | wps 3 | bleu 1.56 | num_updates 200"


@pytest.mark.parametrize("message", [SIMPLE, JSON], ids=["text", "json"])
def test_progress_names_update_loss_speed_and_time_left(message: str) -> None:
    assert progress(message, False, 2500) == (
        "update 100 of 2,500: loss 11.138, ppl 1972.74, tokens/s 5,000, 20 min left"
    )


def test_progress_of_a_validation() -> None:
    assert progress(VALID, True, 2500) == "validation after 200: loss 7.243, ppl 151.4, BLEU 1.56"


@pytest.mark.parametrize("message", ["nothing", "loss=1, num_updates=nan", "loss=1, ups=0, num_updates="])
def test_what_is_no_progress_is_left_as_it_is(message: str) -> None:
    assert progress(message, False, 10) is None


@pytest.mark.parametrize(("seconds", "words"), [(-3, "0 s"), (40, "40 s"), (1200, "20 min"), (12000, "3 h 20 min")])
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_console_has_no_dumps_of_fairseq_and_all_warnings() -> None:
    stream = io.StringIO()
    handler = ConsoleHandler(stream)
    for name, level, message in (
        ("fairseq_cli.train", logging.INFO, "{'common': ...}"),
        ("fairseq.trainer", logging.WARNING, "odd"),
        ("smoe_mt.training.trainer", logging.INFO, "ours"),
    ):
        handler.handle(logging.LogRecord(name, level, "", 0, message, None, None))
    assert stream.getvalue() == "warning: odd\nours\n"


def test_the_end_of_a_job_is_told_once_the_job_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConsoleHandler, "closing", None)  # an earlier test may have trained
    stream = io.StringIO()
    handler = ConsoleHandler(stream)
    done = logging.LogRecord("fairseq_cli.train", logging.INFO, "", 0, "done training in 12.3 seconds", None, None)
    handler.handle(done)
    monkeypatch.setattr(ConsoleHandler, "closing", staticmethod(lambda seconds: f"ended after {seconds} s"))
    handler.handle(done)
    assert stream.getvalue() == "ended after 12.3 s\n"


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ConsoleHandler, Terminal]]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(ConsoleHandler, "last_update", 2500)
    monkeypatch.setattr(ConsoleHandler, "closing", staticmethod(lambda seconds: f"ended (it was time): {seconds} s"))
    stream = Terminal()
    yield ConsoleHandler(stream), stream
    ConsoleHandler.line = None


def say(handler: logging.Handler, name: str, message: str) -> None:
    handler.handle(logging.LogRecord(name, logging.INFO, "", 0, message, None, None))


def test_at_a_terminal_progress_is_one_line_below_what_stays(at_a_terminal: tuple[ConsoleHandler, Terminal]) -> None:
    handler, stream = at_a_terminal
    say(handler, "smoe_mt.training.trainer", "data  some")
    for update in (100, 200):
        say(handler, "train_inner", SIMPLE.replace("num_updates=100", f"num_updates={update}"))
    say(handler, "valid", VALID)
    shown = screen(stream.getvalue())
    assert shown[:2] == ["data  some", "validation after 200: loss 7.243, ppl 151.4, BLEU 1.56"]
    assert re.fullmatch(r"\[> +\] 200 of 2,500, 19 min left, loss 11.138, tokens/s 5,000", shown[2])
    say(handler, "fairseq_cli.train", "done training in 12.3 seconds")
    assert screen(stream.getvalue())[1:] == [shown[1], "ended (it was time): 12.3 s", ""]


def test_updates_are_counted_between_two_lines_of_the_log(
    at_a_terminal: tuple[ConsoleHandler, Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, stream = at_a_terminal
    line = handler.line
    assert line is not None
    clock = iter([0.0, 10.0, 10.1, 20.0])
    monkeypatch.setattr("smoe_mt.training.console.time.monotonic", lambda: next(clock))
    line.count(100, 2500)
    line.count(101, 2500)
    assert screen(stream.getvalue()) == ["[            ] 101 of 2,500, 6 h 40 min left"]
    line.count(102, 2500)  # too soon
    say(handler, "train_inner", SIMPLE)
    line.count(200, 2500)
    assert screen(stream.getvalue())[-1].endswith("200 of 2,500, 8 min left, loss 11.138, tokens/s 5,000")


def test_trainings_side_by_side_have_a_line_each() -> None:
    lines = [
        "dense | data  some\n",
        "dense | update 100 of 400: loss 5.1\n",
        "smoe_2_2 | update 200 of 400: loss 4.9\n",
        "dense | update 200 of 400: loss 4.8\n",
        "something else\n",
        "smoe_2_2 | ended (optimization.max_update=400): 400 updates\n",
    ]
    terminal, pipe = Terminal(), io.StringIO()
    for target in (terminal, pipe):
        copy(iter(lines), target)  # type: ignore[arg-type]
    assert pipe.getvalue() == "".join(lines)
    assert screen(terminal.getvalue()) == [
        "dense | data  some",
        "something else",
        "smoe_2_2 | ended (optimization.max_update=400): 400 updates",
        "dense  [=====>      ] 200 of 400, loss 4.8",
        "",
    ]
