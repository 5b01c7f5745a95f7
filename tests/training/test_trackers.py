"""Weights & Biases and MLflow, both made up: what they are told, and that neither ends a training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq.logging import meters, progress_bar

from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches import apply
from smoe_mt.training import trackers
from smoe_mt.training.jobs import forget_previous_job


class Tracker:
    """Writes down what is called. Of `fails` the calls fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: set[str] = set()
        self.run: str | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **settings: Any) -> None:
            self.calls.append((name, *args, settings) if settings else (name, *args))
            if name in self.fails:
                raise ConnectionError("no route to host\nRetry later")

        return call


def config(**asked: str) -> Any:
    common = SimpleNamespace(wandb_project=asked.get("wandb_project"))
    task = SimpleNamespace(mlflow_experiment=asked.get("mlflow_experiment"))
    return SimpleNamespace(common=common, task=task, checkpoint=SimpleNamespace(save_dir="runs/a/"))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "mlflow", tracker)  # type: ignore[arg-type]
    yield tracker
    tracker.fails.clear()
    trackers.close_runs()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker()
    monkeypatch.setattr(progress_bar, "wandb", tracker)
    monkeypatch.delenv("WANDB_NAME", raising=False)
    return tracker


def bar() -> Any:
    apply()
    return progress_bar.progress_bar([1, 2], log_format="none")


def test_mlflow_gets_the_configuration_once_and_all_metrics_of_each_step(mlflow: Tracker) -> None:
    trackers.open_runs(config(mlflow_experiment="small"))
    assert mlflow.calls == [("set_experiment", "small"), ("start_run", {"run_name": "a"})]
    del mlflow.calls[:]
    loss = meters.AverageMeter()
    loss.update(2.5)
    for stats in ({"loss": loss, "num_updates": 3, "lr": 0.5, "note": "x"}, {"bleu": 7.0, "bleu/aa-en": 7.25}):
        one = bar()
        one.update_config({"common": {"seed": 1}, "model": {"long": "x" * 1000}})
        assert [value for value in one] == [1, 2]
        (one.log if "loss" in stats else one.print)(stats, tag="train" if "loss" in stats else "valid", step=4)
    assert mlflow.calls == [
        ("log_params", {"common/seed": "1", "model/long": "x" * 500}),
        ("log_metrics", {"train/loss": 2.5, "train/lr": 0.5}, {"step": 4}),
        ("log_metrics", {"valid/bleu": 7.0, "valid/bleu.aa-en": 7.25}, {"step": 4}),
    ]


def test_without_an_experiment_fairseqs_bar_is_as_it_was(mlflow: Tracker) -> None:
    trackers.open_runs(config())
    assert isinstance(bar(), progress_bar.NoopProgressBar) and not mlflow.calls


def test_mlflow_that_fails_ends_itself_and_not_the_training(mlflow: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    trackers.open_runs(config(mlflow_experiment="small"))
    mlflow.fails = {"log_metrics"}
    one = bar()
    for step in (1, 2):
        one.log({"loss": 1.0}, tag="train", step=step)
    assert [call[0] for call in mlflow.calls].count("log_metrics") == 1
    assert caplog.messages == ["MLflow takes no more of this run (no route to host); training continues without it"]


def test_a_job_of_a_multirun_gets_runs_of_its_own(mlflow: Tracker, wandb: Tracker) -> None:
    trackers.open_runs(config(mlflow_experiment="small", wandb_project="big"))
    wandb.run = "open"
    forget_previous_job()
    assert mlflow.calls[-1] == ("end_run",) and wandb.calls[-1] == ("finish",)
    assert isinstance(bar(), progress_bar.NoopProgressBar)


def test_wandb_has_one_run_for_all_progress_bars(wandb: Tracker) -> None:
    apply()
    trackers.open_runs(config(wandb_project="big"))
    for step in (1, 2):
        one = progress_bar.progress_bar([1], log_format="none", wandb_project="big", wandb_run_name="a")
        one.log({"loss": 2.5}, tag="train", step=step)
    assert wandb.calls == [
        ("init", {"project": "big", "name": "a"}),
        ("log", {"train/loss": 2.5}, {"step": 1}),
        ("log", {"train/loss": 2.5}, {"step": 2}),
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"wandb_project": "big"}, r"common.wandb_project=big: .*pip install 'smoe_mt\[wandb\]'"),
        ({"mlflow_experiment": "small"}, r"task.mlflow_experiment=small: .*pip install 'smoe_mt\[mlflow\]'"),
    ],
)
def test_a_tracker_that_is_not_installed_is_told_at_the_door(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(progress_bar, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    trackers.check_installed(config())
    with pytest.raises(UserError, match=message):
        trackers.check_installed(config(**asked))


def test_a_tracker_that_cannot_be_reached_is_one_line(mlflow: Tracker, wandb: Tracker) -> None:
    mlflow.fails, wandb.fails = {"start_run"}, {"init"}
    for asked, remedy in ({"wandb_project": "big"}, "WANDB_MODE"), ({"mlflow_experiment": "small"}, "TRACKING_URI"):
        with pytest.raises(UserError, match=rf"no route to host\); .*{remedy}") as caught:
            trackers.open_runs(config(**asked))
        assert "\n" not in str(caught.value)
