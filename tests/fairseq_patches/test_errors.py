"""What stands on the screen, and the exit code. (The command lines themselves: tests/system/test_fairseq_command_lines.py.)"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hydra._internal.utils import run_and_report
from hydra.core.utils import JobReturn, JobStatus

from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches import apply


def raise_plain() -> None:
    raise UserError("give\nanother file")


def raise_while_handling() -> None:
    try:
        raise_plain()
    except UserError:
        raise RuntimeError("wrapped by fairseq")  # noqa: B904


def raise_from() -> None:
    raise RuntimeError("x") from UserError("give another file")


def screen_of(error: Any, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(Exception) as caught:
        error()
    sys.excepthook(type(caught.value), caught.value, caught.value.__traceback__)
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    apply()


@pytest.mark.parametrize("error", [raise_plain, raise_while_handling, raise_from])
def test_a_mistake_is_one_line(error: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert screen_of(error, capsys) == "error: give another file\n"


def test_other_errors_keep_their_trace(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(lambda: int("x"), capsys)
    assert "Traceback" in screen and "ValueError: invalid literal" in screen


def test_putting_it_in_place_twice_changes_nothing() -> None:
    hook, value = sys.excepthook, vars(JobReturn)["return_value"]
    apply()
    assert sys.excepthook is hook and vars(JobReturn)["return_value"] is value


def hydra_screen(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[str, object]:
    """Hydra's report of a job that failed, and the exit code."""
    job = JobReturn(overrides=["a=1"], status=JobStatus.FAILED)
    job.return_value = error
    with pytest.raises(SystemExit) as stop:
        run_and_report(lambda: job.return_value)
    return capsys.readouterr().err, stop.value.code


def test_a_mistake_under_hydra_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_screen(UserError("give another file"), capsys) == ("error: give another file\n", 2)


def test_other_errors_under_hydra_keep_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    screen, code = hydra_screen(RuntimeError("a bug"), capsys)
    assert "Error executing job" in screen and "RuntimeError: a bug" in screen and code == 1


def test_the_result_of_a_job_that_went_well() -> None:
    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = 5
    assert job.return_value == 5
