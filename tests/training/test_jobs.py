"""Jobs of a multirun are as independent as if each had a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.logging import progress_bar
from fairseq_cli import train as fairseq_train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smoe_mt.paths import configs, user_dir
from smoe_mt.training.jobs import forget_previous_job

pytestmark = pytest.mark.slow

TINY = [
    "scale=small",
    "common.cpu=true",
    "dataset.max_tokens=200",
    "task.tokens_per_update=200",
    "task.eval_bleu=false",
]
TINY += [
    f"model.{side}_{part}"
    for side in ("encoder", "decoder")
    for part in ("embed_dim=16", "ffn_embed_dim=16", "layers=1")
]
TINY += ["optimization.max_update=6", "lr_scheduler.warmup_updates=2", "lr_scheduler.total_num_update=60"]
TINY += ["checkpoint.save_interval_updates=3", "dataset.validate_interval_updates=3", "checkpoint.patience=1"]
# The second rate learns nothing: its loss never gets below what the first job reached.
RATES = ("0.02", "0.0000001")
FOLDERS = "checkpoint.save_dir=lr${optimization.lr[0]}"


def hydra_train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """fairseq's own Hydra command line in `folder`."""
    command = [sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", str(configs()), "--config-name", "m4"]
    command += [*arguments, f"common.user_dir={user_dir()}", *TINY]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)


@pytest.fixture(scope="module")
def multirun(tmp_path_factory: pytest.TempPathFactory, toy_text: Path) -> Path:
    """A folder in which two jobs were run after each other."""
    folder = tmp_path_factory.mktemp("multirun")
    rates = ",".join(f"[{rate}]" for rate in RATES)
    done = hydra_train(folder, "-m", f"optimization.lr={rates}", FOLDERS, "model=vanilla", f"task.data={toy_text}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def best(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint_best.pt", weights_only=True)["model"]


def test_the_second_jobs_best_checkpoint_is_that_of_a_run_alone(multirun: Path, toy_text: Path, tmp_path: Path) -> None:
    done = hydra_train(tmp_path, f"optimization.lr=[{RATES[1]}]", FOLDERS, "model=vanilla", f"task.data={toy_text}")
    assert done.returncode == 0, done.stderr[-3000:]
    run = f"lr{float(RATES[1])}"
    alone, together = best(tmp_path / run), best(multirun / run)
    assert list(alone) == list(together)
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_each_job_has_its_own_curves(multirun: Path) -> None:
    """Of each the updates that it made itself, in its own folder."""
    for rate in RATES:
        events = EventAccumulator(str(multirun / f"lr{float(rate)}" / "tensorboard" / "valid")).Reload()
        assert [event.step for event in events.Scalars("loss")] == [3, 6]


def test_two_jobs_in_one_folder_are_refused(tmp_path: Path, toy_text: Path) -> None:
    sweep = ("-m", "optimization.lr=[0.02],[0.01]", "optimization.max_update=1", "model=dense", f"task.data={toy_text}")
    done = hydra_train(tmp_path, *sweep)
    assert done.returncode != 0
    assert "is that of job 0" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_what_fairseq_remembers_is_forgotten() -> None:
    class Writer:
        closed = False

        def close(self) -> None:
            self.closed = True

    writer = Writer()
    checkpoint_utils.save_checkpoint.best = 1.0
    fairseq_train.should_stop_early.best, fairseq_train.should_stop_early.num_runs = 1.0, 2
    progress_bar._tensorboard_writers["train"] = writer
    forget_previous_job()
    assert not hasattr(checkpoint_utils.save_checkpoint, "best")
    assert not hasattr(fairseq_train.should_stop_early, "best")
    assert not hasattr(fairseq_train.should_stop_early, "num_runs")
    assert writer.closed and not progress_bar._tensorboard_writers
