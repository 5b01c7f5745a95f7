"""How many checkpoints are kept and what they need."""

from __future__ import annotations

import logging
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.training import disk
from tests.conftest import TrainedRun

Usage = namedtuple("Usage", "total used free")


def config(folder: Path | str = "runs", **settings: object) -> DictConfig:
    checkpoint = {
        "no_save": False,
        "no_last_checkpoints": False,
        "keep_best_checkpoints": -1,
        "save_interval_updates": 2000,
        "keep_interval_updates": 5,
        "keep_interval_updates_pattern": -1,
        "no_epoch_checkpoints": True,
        "keep_last_epochs": -1,
        "no_save_optimizer_state": False,
        "save_dir": str(folder),
    }
    cfg = {"dataset": {"disable_validation": False}, "optimization": {"max_update": 100_000}}
    return OmegaConf.create(cfg | {"checkpoint": checkpoint | settings})


def test_the_benchmarks_keep_seven() -> None:
    kept = disk.kept_checkpoints(config())
    assert kept == {"the last": 1, "the best": 1, "one each 2,000 updates": 5}


@pytest.mark.parametrize(
    ("settings", "name", "count"),
    [
        ({"keep_interval_updates": -1}, "one each 2,000 updates", 50),
        ({"save_interval_updates": 60_000}, "one each 60,000 updates", 1),
        ({"no_epoch_checkpoints": False}, "one an epoch", None),
        ({"no_epoch_checkpoints": False, "keep_last_epochs": 3}, "one an epoch", 3),
        ({"keep_best_checkpoints": 4}, "the best few", 4),
    ],
)
def test_settings_that_keep_more(settings: dict[str, object], name: str, count: int | None) -> None:
    assert disk.kept_checkpoints(config(**settings))[name] == count


def test_nothing_is_kept_without_saving(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        disk.check_room(config(no_save=True), nn.Linear(2, 2))
    assert caplog.text == ""


def test_the_estimate_is_the_size_of_a_real_checkpoint(trained_run: TrainedRun) -> None:
    model = load_model(trained_run.folder, device="cpu").model
    real = (trained_run.folder / "checkpoint_last.pt").stat().st_size
    assert 0 < real - disk.checkpoint_bytes(model, with_optimiser=True) < 150_000


def test_it_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        disk.check_room(config(tmp_path), nn.Linear(1000, 1000, bias=False))
    assert "the last, the best, one each 2,000 updates (5); 12.0 MB each, 84.0 MB in all; " in caplog.text


def test_half_precision_weights_are_smaller() -> None:
    assert disk.checkpoint_bytes(nn.Linear(10, 10, bias=False, dtype=torch.bfloat16), with_optimiser=False) == 200


def test_a_disk_too_small_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1000, 1000, bias=False)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 95_000_000))
    with pytest.raises(UserError, match=r"need 96.0 MB and 95.0 MB are free; keep fewer"):
        disk.check_room(config(tmp_path), model)
    (tmp_path / "checkpoint_last.pt").write_bytes(bytes(12_000_000))  # it will be replaced
    disk.check_room(config(tmp_path), model)
