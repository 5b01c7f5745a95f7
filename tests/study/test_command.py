"""``smoe-mt study``: what is started, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smoe_mt import cli
from smoe_mt.study import command
from smoe_mt.study.jobs import Failure, Job, Slot
from tests.study.test_plan import MADE


class FailingPool:
    """Starts nothing, and says that all trainings failed."""

    started: list[str]

    def __init__(self, slots: Sequence[Slot], seconds: float | None) -> None:
        self.failures: list[Failure] = []
        self.interrupted = False

    def run(self, chains: Sequence[Sequence[Job]], show: Callable[[Sequence[Job]], None]) -> None:
        for chain in chains:
            self.started += [f"{job.kind} {job.item}" for job in chain]
            self.failures += [Failure(job, 1, "killed") for job in chain if job.kind == "train"]


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("*", "1 of the study's jobs failed"),
        ("contrast/*", "1 of the study's runs are made of runs that are not trained"),
    ],
)
def test_what_is_made_of_a_run_that_is_not_trained_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], only: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(MADE)
    monkeypatch.setattr(command, "Pool", FailingPool)
    FailingPool.started = []
    folders = ["--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data"), "--only", only]
    assert cli.main(["study", str(tmp_path / "mine.yaml"), *folders]) == cli.EXIT_USER_ERROR
    assert not any("contrast" in job or "pruned" in job for job in FailingPool.started)
    err = capsys.readouterr().err
    assert "not started: contrast/seed1 is made of vanilla/seed1, which is not trained" in err and said in err
