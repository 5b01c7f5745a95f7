"""The line that a training ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq_cli.train  # whose early stopping is looked at
import pytest
from fairseq import checkpoint_utils

from smoe_mt.training.closing import closing
from smoe_mt.training.jobs import forget_previous_job, restore_early_stopping

assert fairseq_cli.train.should_stop_early


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    forget_previous_job()
    yield
    forget_previous_job()


def trainer(folder: Path, updates: int = 12, hours: float = 0.0, rate: float = 0.1, **limits: Any) -> SimpleNamespace:
    set_to = {"max_update": 0, "stop_time_hours": 0.0, "stop_min_lr": -1.0, "max_epoch": 3, **limits}
    patience = set_to.pop("patience", -1)
    checkpoint = SimpleNamespace(save_dir=str(folder), patience=patience, best_checkpoint_metric="loss")
    return SimpleNamespace(
        cfg=SimpleNamespace(optimization=SimpleNamespace(**set_to), checkpoint=checkpoint),
        get_num_updates=lambda: updates,
        cumulative_training_time=lambda: 3600 * hours,
        get_lr=lambda: rate,
    )


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"max_update": 12}, "optimization.max_update=12"),
        ({"max_update": 13, "stop_time_hours": 0.5, "hours": 1.0}, "optimization.stop_time_hours=0.5"),
        ({"patience": 2}, "checkpoint.patience=2: as many validations were no better"),
        ({"stop_min_lr": 0.1}, "optimization.stop_min_lr=0.1"),
        ({"max_update": 13, "stop_time_hours": 2.0, "hours": 1.0, "patience": 3}, "optimization.max_epoch=3"),
    ],
)
def test_the_reason_is_the_limit_that_was_reached(tmp_path: Path, state: dict[str, Any], reason: str) -> None:
    restore_early_stopping({"num_runs": 2})
    assert closing(trainer(tmp_path, **state), 3.6, 0) == f"ended ({reason}): 12 updates, 4 s"


def test_the_best_model_and_what_to_do_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_utils.save_checkpoint, "best", 4.25, raising=False)
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "checkpoint_best.pt").touch()
    assert closing(trainer(folder), 1, 0).endswith(
        f"; best loss in validation 4.25, {folder}/checkpoint_best.pt; next: smoe-mt evaluate '{folder}'"
    )


def test_a_resumed_training_tells_its_own_part(tmp_path: Path) -> None:
    assert closing(trainer(tmp_path), 1, 8) == "ended (optimization.max_epoch=3): 12 updates, 4 of them now, 1 s"
    assert closing(trainer(tmp_path), 1, 12).startswith("nothing was left to train: 12 updates")
