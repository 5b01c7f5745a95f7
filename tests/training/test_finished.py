"""A finished training that is started again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from smoe_mt.library_messages import TRAINING_DONE
from smoe_mt.training.finished import FAIRSEQ, NO_EPOCH, stop_if_finished
from tests.conftest import TrainedRun
from tests.training.test_trainer import Train, run

__all__ = ["run"]


def config(**ends: float) -> Any:
    optimization = {"max_update": 0, "max_epoch": 0, "stop_time_hours": 0.0}
    settings = {"optimization": optimization, "checkpoint": {"patience": -1}}
    for name, value in ends.items():
        settings["checkpoint" if name == "patience" else "optimization"][name] = value
    return OmegaConf.create(settings)


@pytest.mark.parametrize(
    ("ends", "setting"),
    [
        ({"max_update": 1000}, "optimization.max_update=1,000"),
        ({"max_epoch": 4}, "optimization.max_epoch=4"),
        ({"stop_time_hours": 1.5}, "optimization.stop_time_hours=1.5"),
        ({"patience": 3}, "checkpoint.patience=3"),
    ],
)
def test_what_ended_it_is_named(
    ends: dict[str, float], setting: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAIRSEQ, "filters", [])
    cfg = config(**ends)
    stop_if_finished(cfg, updates=1000, epoch=5, hours=2.0, without_better=3)
    assert cfg.optimization.max_epoch == NO_EPOCH
    said = f"already finished, after 1,000 updates ({setting}): to go on, give a larger {setting.partition('=')[0]};"
    assert said in caplog.text


def test_one_that_has_not_ended_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(max_update=1001, max_epoch=5, stop_time_hours=2.5, patience=4)
    stop_if_finished(cfg, updates=1000, epoch=5, hours=2.0, without_better=3)
    assert cfg.optimization.max_epoch == 5 and not caplog.text


def test_it_is_not_done_in_no_time_but_the_next_job_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FAIRSEQ, "filters", [])
    caplog.set_level(logging.INFO, logger=FAIRSEQ.name)
    stop_if_finished(config(max_update=7), updates=7, epoch=1, hours=0.0, without_better=0)
    FAIRSEQ.info(f"{TRAINING_DONE} 0.0 seconds")
    assert TRAINING_DONE not in caplog.text
    stop_if_finished(config(max_update=7), updates=0, epoch=1, hours=0.0, without_better=0)
    FAIRSEQ.info(f"{TRAINING_DONE} 3.0 seconds")
    assert TRAINING_DONE in caplog.text


@pytest.mark.slow
def test_a_training_by_epochs_makes_no_more_updates(
    run: Train, trained_run: TrainedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = "--strata 2,2 --lr 0.001 --max-epoch 1 --disable-validation"
    run(trained_run.data, options)
    before = (tmp_path / "checkpoint_last.pt").stat().st_mtime_ns
    run(trained_run.data, options)
    assert "already finished" in caplog.text and "optimization.max_epoch=1" in caplog.text
    assert (tmp_path / "checkpoint_last.pt").stat().st_mtime_ns == before
