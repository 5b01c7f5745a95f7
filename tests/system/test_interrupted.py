"""Runs that are killed, asked to leave, short of disk or not finite."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.logging import metrics
from fairseq_cli import train

from smoe_mt import preemption
from smoe_mt.criterions.stratified_routing import StratifiedRoutingCriterion
from smoe_mt.errors import UserError
from smoe_mt.paths import user_dir
from smoe_mt.training import saving
from smoe_mt.training.trainer import SMoETrainer
from tests.training.test_trainer import OPTIONS

pytestmark = pytest.mark.slow

KILLED = -signal.SIGKILL
MODEL = "--moe stratified --strata 2,2 --eom-p 0.2 --second-choice gumbel --max-tokens 200 --lr 0.01 --save-interval-updates 2"
# Kills its own process in place of the n-th renaming of a file, when what it would name is written.
KILL_BEFORE_RENAMING = """
import os, signal, sys
n, replace = int(sys.argv.pop(1)), os.replace
def counting(*names):
    global n
    n -= str(names[1]).endswith(".pt")
    os.kill(os.getpid(), signal.SIGKILL) if n == 0 else replace(*names)
os.replace = counting
from fairseq_cli.train import cli_main
cli_main()
"""

Start = Callable[[Path, str], None]


def arguments(data: Path, folder: Path, options: str = "") -> list[str]:
    command = f"{data} --user-dir {user_dir()} --task many_to_many_translation {OPTIONS} {MODEL} --dropout 0.2"
    return f"{command} --max-update 6 {options} --save-dir {folder}".split()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, toy_text: Path) -> Start:
    """Trains in this process."""

    def run_main(folder: Path, options: str = "") -> None:
        monkeypatch.setattr(sys, "argv", ["fairseq-train", *arguments(toy_text, folder, options)])
        train.cli_main()

    return run_main


def weights(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


def updates(folder: Path, name: str = "checkpoint_last.pt") -> int:
    return torch.load(folder / name, weights_only=True)["optimizer_history"][-1]["num_updates"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, toy_text: Path) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fairseq-train", *arguments(toy_text, folder)])
        train.cli_main()
    return folder


# A save renames checkpoint_1_N, then its copies checkpoint_best (where it is better) and checkpoint_last.
@pytest.mark.parametrize("renaming", [4, 6])
def test_killed_while_saving(renaming: int, start: Start, uninterrupted: Path, toy_text: Path, tmp_path: Path) -> None:
    """What lies there is whole, and the run goes on and ends with the same weights, dropout and gates' noise included."""
    command = [sys.executable, "-c", KILL_BEFORE_RENAMING, str(renaming), *arguments(toy_text, tmp_path)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == KILLED, killed.stderr[-2000:]
    assert len(list(tmp_path.glob(".*.smoe-tmp-*"))) == 1
    assert updates(tmp_path) < 6
    start(tmp_path)
    assert not list(tmp_path.glob(".*.smoe-tmp-*"))
    assert same(weights(tmp_path), weights(uninterrupted))
    assert same(weights(tmp_path, "checkpoint_best.pt"), weights(uninterrupted, "checkpoint_best.pt"))


def test_a_run_that_had_ended_is_not_trained_further(start: Start, uninterrupted: Path) -> None:
    before = weights(uninterrupted)
    start(uninterrupted)
    assert updates(uninterrupted) == 6 and same(weights(uninterrupted), before)


@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_asked_to_leave(
    number: signal.Signals, start: Start, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the third update: it is finished and saved, and the run goes on from there."""
    monkeypatch.setattr(preemption, "_noted", [])
    forward = StratifiedRoutingCriterion.forward
    calls = []

    def signalled(self: StratifiedRoutingCriterion, *args: object, **kwargs: object) -> object:
        calls.append(self.training)
        if sum(calls) == 3:
            os.kill(os.getpid(), number)
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StratifiedRoutingCriterion, "forward", signalled)
        with pytest.raises(SystemExit) as stop:
            start(tmp_path)
    assert stop.value.code == 75
    assert updates(tmp_path) == 3
    preemption._noted.clear()
    start(tmp_path)
    assert same(weights(tmp_path), weights(uninterrupted))


def spoil(patch: pytest.MonkeyPatch, which: Callable[[int], bool], what: str) -> None:
    """Make the loss, or the gradient alone, of some batches of training not finite; counted from 1."""
    forward = StratifiedRoutingCriterion.forward
    calls = []

    def spoilt(
        self: StratifiedRoutingCriterion, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, object, object]:
        loss, size, log = forward(self, *args, **kwargs)
        calls.append(self.training)
        if self.training and which(sum(calls)):
            if what == "loss":
                loss = loss.detach() * float("inf") + loss * 0  # its gradient is finite
            else:
                loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss, size, log

    patch.setattr(StratifiedRoutingCriterion, "forward", spoilt)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_left_out(
    what: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda batch: batch in (2, 3), what)
    logged: list[float] = []
    log_scalar = metrics.log_scalar

    def listen(key: str, value: float, *args: Any, **kwargs: Any) -> None:
        logged.extend([value] if key == "nonfinite" else [])
        log_scalar(key, value, *args, **kwargs)

    monkeypatch.setattr(metrics, "log_scalar", listen)
    start(tmp_path, "--disable-validation")
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 6
    assert state["extra_state"]["train_iterator"]["iterations_in_epoch"] == 8
    assert state["extra_state"]["smoe_mt"]["nonfinite"] == {"total": 2, "in_a_row": 0}
    assert all(weight.isfinite().all() for weight in state["model"].values())
    assert max(logged) == 2
    assert not (tmp_path / "crash.pt").exists()


def test_too_many_in_a_row_end_the_run(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda batch: batch > 3, "loss")
    with pytest.raises(UserError, match=r"3 times in a row after update 3; .*nonfinite_batch\.pt"):
        start(tmp_path, "--max-nonfinite-updates 3 --disable-validation")
    assert updates(tmp_path) == 2
    batch = torch.load(tmp_path / "nonfinite_batch.pt", weights_only=True)
    assert batch["num_updates"] == 3 and "net_input" in batch["samples"][0]


def test_a_full_disk(
    start: Start, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the save of update 4: the checkpoints of update 2 stay whole, and the run goes on."""
    write = saving.NoticingFile.write

    def write_until_full(self: saving.NoticingFile, data: object) -> int:
        if full and self._file.tell() > 10_000:
            self._file = SimpleNamespace(write=no_room)  # type: ignore[assignment]
        return write(self, data)

    def no_room(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    full: list[bool] = []
    best: list[float] = []
    original = SMoETrainer.save_checkpoint

    def save(self: SMoETrainer, filename: str, extra_state: dict[str, Any]) -> object:
        if self.get_num_updates() == 6:  # what update 4 left
            assert updates(tmp_path) == updates(tmp_path, "checkpoint_1_2.pt") == 2
            best.extend([torch.load(tmp_path / "checkpoint_best.pt", weights_only=True)["extra_state"]["best"]])
        full[:] = [True] if self.get_num_updates() == 4 else []
        return original(self, filename, extra_state)

    monkeypatch.setattr(saving.NoticingFile, "write", write_until_full)
    monkeypatch.setattr(SMoETrainer, "save_checkpoint", save)
    start(tmp_path)
    assert len(best) == 1 and checkpoint_utils.save_checkpoint.best < best[0]
    assert "CHECKPOINT NOT SAVED: no space left" in caplog.text
    assert not (tmp_path / "checkpoint_1_4.pt").exists() and not list(tmp_path.glob(".*.smoe-tmp-*"))
    assert same(weights(tmp_path), weights(uninterrupted))


def test_a_signal_to_all_processes_of_a_job(toy_text: Path, tmp_path: Path) -> None:
    """The loader's workers get it too. They stay until the last update has its batch, and end with the trainer."""
    options = "--num-workers 2 --disable-validation --log-format none"
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.train",
        *arguments(toy_text, tmp_path, options),
        "--max-update",
        "100000",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not (tmp_path / "checkpoint_last.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == preemption.EXIT_PREEMPTED, errors[-2000:]
    assert updates(tmp_path) >= 2
