"""What a training leaves behind where it ends by epochs, and where an interval of updates ends with an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from smoe_mt.training.last_epoch import LastEpoch
from tests.conftest import TrainedRun
from tests.training.test_trainer import Train, run

__all__ = ["run"]

SELDOM = "--strata 2,2 --lr 0.001 --max-epoch 2 --save-interval 1000 --validate-interval 1000"


def config(max_epoch: int = 0, stop_min_lr: float = -1.0, no_epoch_checkpoints: bool = False) -> Any:
    return OmegaConf.create(
        {
            "optimization": {"max_epoch": max_epoch, "stop_min_lr": stop_min_lr},
            "checkpoint": {"save_interval": 5, "no_epoch_checkpoints": no_epoch_checkpoints},
            "dataset": {"validate_interval": 7},
        }
    )


def at_its_end(cfg: Any) -> tuple[int, int, bool]:
    return cfg.checkpoint.save_interval, cfg.dataset.validate_interval, cfg.checkpoint.no_epoch_checkpoints


def test_the_last_epoch_saves_and_validates_and_no_other() -> None:
    cfg = config(max_epoch=3)
    settings = LastEpoch(cfg)
    settings.begin_epoch(2, 0.1)
    assert at_its_end(cfg) == (5, 7, False)
    settings.begin_epoch(3, 0.1)
    assert at_its_end(cfg) == (1, 1, True)
    with settings.as_given():
        assert at_its_end(cfg) == (5, 7, False)
    assert at_its_end(cfg) == (1, 1, True)


@pytest.mark.parametrize(("never", "unnamed"), [(False, False), (True, True)])
def test_an_epoch_keeps_its_own_name(never: bool, unnamed: bool) -> None:
    cfg = config(max_epoch=5, no_epoch_checkpoints=never)
    LastEpoch(cfg).begin_epoch(5, 0.1)
    assert at_its_end(cfg) == (1, 1, unnamed)


def test_a_rate_that_falls_too_low_and_rises_again() -> None:
    cfg = config(stop_min_lr=0.01)
    settings = LastEpoch(cfg)
    settings.begin_epoch(1, 0.1)
    settings.look(0.01)
    assert at_its_end(cfg) == (1, 1, True)
    settings.begin_epoch(2, 0.1)
    assert at_its_end(cfg) == (5, 7, False)


@pytest.mark.slow
def test_a_training_by_epochs_ends_with_a_checkpoint_and_a_best_one(
    run: Train, trained_run: TrainedRun, tmp_path: Path
) -> None:
    last = run(trained_run.data, SELDOM)
    assert last["extra_state"]["train_iterator"]["epoch"] == 3
    assert last["extra_state"]["val_loss"] is not None
    assert last["cfg"]["checkpoint"]["save_interval"] == 1000
    assert {path.name for path in tmp_path.glob("*.pt")} == {"checkpoint_last.pt", "checkpoint_best.pt"}


@pytest.mark.slow
def test_an_interval_of_updates_that_ends_with_an_epoch_has_its_checkpoint(
    run: Train, trained_run: TrainedRun, tmp_path: Path
) -> None:
    updates = run(trained_run.data, f"{SELDOM} --max-epoch 1")["optimizer_history"][-1]["num_updates"]
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    run(trained_run.data, f"{SELDOM} --save-interval-updates {updates} --keep-interval-updates 1")
    assert [path.name for path in tmp_path.glob("checkpoint_[0-9]*.pt")] == [f"checkpoint_2_{2 * updates}.pt"]
