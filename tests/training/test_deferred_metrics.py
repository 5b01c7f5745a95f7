"""Metrics that wait tell what metrics of each update tell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from smoe_mt.fairseq_patches import apply
from smoe_mt.training.deferred_metrics import LONGEST, DeferredMetrics
from smoe_mt.training.trainer import SMoETrainer
from tests.toy import make_toy_folder
from tests.training.forked import config, start

CLOCKS = {"wps", "ups", "train_wall", "wall"}


class Kept:
    """A log of what reaches it."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def __call__(self, outputs: list[Any]) -> None:
        self.calls.append(outputs)
        metrics.log_scalar("sum", sum(output["x"] for output in outputs))


def test_reading_and_saving_the_meters_flushes() -> None:
    apply()
    kept = Kept()
    waiting = DeferredMetrics(kept)
    waiting.add([{"x": 1}])
    waiting.add([{"x": 2}])
    assert not kept.calls
    with metrics.aggregate("train"):
        metrics.get_smoothed_values("train")
    waiting.add([{"x": 3}])
    metrics.state_dict()
    metrics.state_dict()
    assert kept.calls == [[{"x": 1}, {"x": 2}], [{"x": 3}]]


def test_not_too_many_updates_are_kept() -> None:
    kept = Kept()
    waiting = DeferredMetrics(kept)
    for _ in range(LONGEST + 1):
        waiting.add([{"x": 1}])
    assert [len(call) for call in kept.calls] == [LONGEST]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_toy_folder(tmp_path / "data", sizes={"train": 60, "valid": 9, "test": 9})


def trained(data: Path, folder: Path, patch: pytest.MonkeyPatch, at_once: bool) -> tuple[dict[str, Any], int]:
    """The meters in the checkpoint of a run of two epochs and a bit, and how often the criterion's metrics were worked out."""
    calls: list[int] = []
    init = SMoETrainer.__init__

    def made(self: SMoETrainer, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._can_wait = not at_once
        log = self._deferred._log
        self._deferred._log = lambda outputs: (calls.append(len(outputs)), log(outputs))[1]

    with patch.context() as within:
        within.setattr(SMoETrainer, "__init__", made)
        start(config(data, folder, options="--max-update 40 --log-interval 7 --clip-norm 0.5"))
    saved = torch.load(folder / "checkpoint_last.pt", weights_only=True)["extra_state"]["metrics"]
    found = {
        f"{name} {key}": (float(meter["sum"]), float(meter["count"]))
        for name, meters in saved.items()
        for _, key, kind, meter in meters
        if kind == "AverageMeter" and key not in CLOCKS and "gb" not in key
    }
    return found, sum(calls)


def test_meters_are_those_of_logging_each_update(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, updates = trained(data, tmp_path / "waited", monkeypatch, at_once=False)
    at_once, none = trained(data, tmp_path / "at_once", monkeypatch, at_once=True)
    assert (updates, none) == (40, 0)
    assert waited.keys() == at_once.keys()
    assert any(key.startswith("train_inner load/") for key in waited) and "train gnorm" in waited
    for key, (total, count) in at_once.items():
        assert math.isclose(waited[key][0], total, rel_tol=1e-5, abs_tol=1e-6), key
        assert math.isclose(waited[key][1], count, rel_tol=1e-6), key
