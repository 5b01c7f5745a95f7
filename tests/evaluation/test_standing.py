"""How far the training of a checkpoint has come."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt.evaluation.standing import checkpoints_table, remarks, training_of
from smoe_mt.folder_lock import LOCK, FolderLock
from smoe_mt.generation import load_model
from tests.conftest import TrainedRun

UPDATES = 60  # of the run
STOPPED = 40


@pytest.fixture
def stopped(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """A run folder whose last checkpoint is of an earlier update than the last one planned."""
    shutil.copy(trained_run.folder / "checkpoint_best.pt", tmp_path)
    rewrite(trained_run.folder / "checkpoint_last.pt", tmp_path, updates=STOPPED)
    return tmp_path


def rewrite(
    last: Path, folder: Path, updates: int = STOPPED, hours: float = 0, patience: int = 0, worse: int = 0
) -> None:
    state = torch.load(last, weights_only=False)
    state["optimizer_history"][-1]["num_updates"] = updates
    state["cfg"]["optimization"]["stop_time_hours"] = hours
    state["cfg"]["checkpoint"]["patience"] = patience
    state["extra_state"]["previous_training_time"] = 7201.0
    state["extra_state"]["smoe_mt"]["early_stopping"] = {"best": 1.0, "num_runs": worse}
    torch.save(state, folder / "checkpoint_last.pt")


def standing(folder: Path) -> dict[str, Any]:
    training = training_of(load_model(folder, device="cpu"))
    return {"checkpoint": str(folder / "checkpoint_best.pt"), "updates": STOPPED, "training": training}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"updates": UPDATES}, "at 60 of 60, finished"),
        ({}, "at 40 of 60, unfinished"),
        ({"patience": 3, "worse": 2}, "at 40 of 60, unfinished"),
        ({"patience": 3, "worse": 3}, "at 40 of 60, ended early"),
        ({"hours": 2.0}, "at 40 of 60, ended early"),
        ({"hours": 2.1}, "at 40 of 60, unfinished"),
    ],
)
def test_a_training_has_ended_by_updates_patience_or_time(stopped: Path, changes: dict[str, Any], shown: str) -> None:
    rewrite(stopped / "checkpoint_last.pt", stopped, **changes)
    found = {"run": standing(stopped)}
    assert checkpoints_table(found)[-1].endswith(shown)
    assert any(line.startswith("unfinished: run") for line in remarks(found)) == shown.endswith("unfinished")


def test_a_training_that_has_its_folder_is_running(stopped: Path) -> None:
    with FolderLock.take(stopped, "a training", "wait"):
        assert checkpoints_table({"run": standing(stopped)})[-1].endswith("at 40 of 60, running")
    assert standing(stopped)["training"]["running"] is False


def test_evaluating_leaves_the_lock_of_an_ended_training(stopped: Path) -> None:
    lock = FolderLock.take(stopped, "a training", "wait")
    record = (stopped / LOCK).read_text()
    lock.release()
    (stopped / LOCK).write_text(record.replace('"started": "', '"started": "9'))
    assert standing(stopped)["training"]["running"] is False and (stopped / LOCK).is_file()
