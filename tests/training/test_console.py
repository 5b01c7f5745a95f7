"""What people see of a training."""

from __future__ import annotations

import io
import logging

import pytest

from smoe_mt.training.console import ConsoleHandler, duration, progress

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
