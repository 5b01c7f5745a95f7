"""Several ranks: how they start, leave, fail, and go on as another number of ranks."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from smoe_mt import preemption
from smoe_mt.criterions.stratified_routing import StratifiedRoutingCriterion
from smoe_mt.fairseq_patches import checkpoint_io
from smoe_mt.training import rank_failure, saving
from smoe_mt.training.trainer import SMoETrainer
from tests.toy import make_toy_folder
from tests.training.forked import Ranks, config, fork, start

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

DROPOUT = "--dropout 0.2 --update-freq 2 --save-interval-updates 2 --disable-validation"
KILLED = -signal.SIGKILL

Change = Callable[[int], None]
Train = Callable[..., Ranks]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("ranks") / "data", sizes={"train": 46, "valid": 9, "test": 9})


def train_on(ranks: int, data: Path, folder: Path, options: str = "", change: Change | None = None) -> Ranks:
    """Fork `ranks` that train a tiny model; each calls `change` first."""
    cfg = config(data, folder, options=options)

    def run(rank: int) -> None:
        rank_failure.BEAT = 0.5
        if change is not None:
            change(rank)
        start(cfg)

    return fork(ranks, run, folder / "logs")


def state(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def updates(folder: Path) -> int:
    return state(folder)["optimizer_history"][-1]["num_updates"]


def same_weights(one: Path, other: Path) -> bool:
    weights, others = state(one)["model"], state(other)["model"]
    return all(torch.equal(weights[name], others[name]) for name in weights)


def at_batch(number: int, do: Callable[[], object]) -> None:
    """Call `do` before a batch of training, counted from 1."""
    forward = StratifiedRoutingCriterion.forward
    calls: list[bool] = []

    def counting(self: StratifiedRoutingCriterion, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.training)
        if self.training and sum(calls) == number:
            do()
        return forward(self, *args, **kwargs)

    StratifiedRoutingCriterion.forward = counting  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates on two ranks, with dropout."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    def note(rank: int) -> None:
        def draw() -> None:
            assert distributed.get_world_size() == 2 and rank == distributed.get_rank()
            with torch.random.fork_rng(devices=()):
                torch.save(torch.rand(3), folder / f"noise{rank}")

        at_batch(1, draw)

    train_on(2, data, folder, f"{DROPOUT} --max-update 4 --tensorboard-logdir {folder}/tb", note).succeed()
    return folder


def test_the_first_rank_alone_speaks(uninterrupted: Path) -> None:
    first, second = ((uninterrupted / "logs" / f"rank{rank}.log").read_text() for rank in range(2))
    assert "2 ranks (gloo)" in first and "legacy_ddp in place of pytorch_ddp" in first and "num_updates 4" in first
    assert second == ""
    assert len(list((uninterrupted / "tb" / "train").iterdir())) == 1


def test_ranks_do_not_drop_the_same_units(uninterrupted: Path) -> None:
    first, second = (torch.load(uninterrupted / f"noise{rank}") for rank in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(3)) and not torch.equal(first, second)


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGUSR1, (1,)), (signal.SIGTERM, (0, 1))])
def test_asked_to_leave(
    number: signal.Signals, asked: tuple[int, ...], data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """In the third update, one rank or all: all finish it and leave, and the run ends as if nothing had happened."""

    def ask(rank: int) -> None:
        save = checkpoint_io.save_whole
        checkpoint_io.save_whole = lambda *args: (time.sleep(1), save(*args))  # type: ignore[assignment]  # nobody leaves before
        if rank in asked:
            at_batch(5, lambda: os.kill(os.getpid(), number))

    options = f"{DROPOUT} --max-update 4"
    assert train_on(2, data, tmp_path, options, ask).wait() == [preemption.EXIT_PREEMPTED] * 2
    assert updates(tmp_path) == 3
    train_on(2, data, tmp_path, options).succeed()
    assert same_weights(tmp_path, uninterrupted)


def spoil(first: int, last: int) -> None:
    """Make the loss of some batches of training infinite."""
    forward = StratifiedRoutingCriterion.forward
    calls: list[bool] = []

    def spoilt(self: StratifiedRoutingCriterion, *args: Any, **kwargs: Any) -> Any:
        loss, *rest = forward(self, *args, **kwargs)
        calls.append(self.training)
        return (loss * float("inf") if self.training and first <= sum(calls) <= last else loss, *rest)

    StratifiedRoutingCriterion.forward = spoilt  # type: ignore[method-assign]


def test_what_is_not_finite_on_one_rank_is_left_out_by_all(data: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()

    def change(rank: int) -> None:
        if rank == 1:
            spoil(3, 3)
        step = SMoETrainer.train_step

        def noting(self: SMoETrainer, samples: Any) -> Any:
            output = step(self, samples)
            weights = torch.cat([weight.flatten() for weight in self.get_model().parameters()])
            torch.save((self.get_num_updates(), self._nonfinite.state_dict(), weights), found / str(rank))
            return output

        SMoETrainer.train_step = noting  # type: ignore[method-assign]

    ranks = train_on(2, data, tmp_path, "--update-freq 2 --max-update 3 --disable-validation", change)
    ranks.succeed()
    (made, counts, weights), (others_made, others_counts, others_weights) = (
        torch.load(found / str(rank), weights_only=True) for rank in range(2)
    )
    assert made == others_made == 3 and counts == others_counts == {"total": 1, "in_a_row": 0}
    assert weights.isfinite().all() and torch.equal(weights, others_weights)
    assert "update 2 left out: its loss or gradient is not finite on rank 1 (1 in a row" in ranks.log(0)
    assert "left out" not in ranks.log(1)
    assert state(tmp_path)["extra_state"]["train_iterator"]["batches_in_epoch"] in (0, 16)


def test_too_many_in_a_row_end_all_ranks(data: Path, tmp_path: Path) -> None:
    options = "--max-nonfinite-updates 2 --save-interval-updates 1 --max-update 9 --disable-validation"
    ranks = train_on(2, data, tmp_path, options, lambda rank: spoil(2, 99) if rank == 1 else None)
    assert all(ranks.wait())
    assert updates(tmp_path) == 1
    assert not (tmp_path / "nonfinite_batch.pt").exists()
    assert "net_input" in state(tmp_path, "nonfinite_batch1.pt")["samples"][0]
    for rank in range(2):
        assert "2 times in a row after update 1; the last of the batches is in" in ranks.log(rank)
        assert "nonfinite_batch1.pt" in ranks.log(rank) and "Traceback" not in ranks.log(rank)


def in_an_update() -> None:
    at_batch(3, lambda: os.kill(os.getpid(), signal.SIGKILL))


def while_saving() -> None:
    write = saving.NoticingFile.write

    def killed(self: saving.NoticingFile, data: Any) -> int:
        if self._file.tell() > 1000:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    saving.NoticingFile.write = killed  # type: ignore[method-assign]


def while_validating() -> None:
    SMoETrainer.valid_step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]


@pytest.mark.parametrize(("killed", "when"), [(1, in_an_update), (0, while_saving), (1, while_validating)])
def test_a_rank_that_dies_ends_the_others(
    killed: int, when: Callable[[], None], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within seconds, and they say which one."""
    ranks = train_on(
        3, data, tmp_path, "--max-update 50 --save-interval-updates 2", lambda rank: when() if rank == killed else None
    )
    codes = ranks.wait(60)
    assert codes[killed] == KILLED
    for rank in {0, 1, 2} - {killed}:
        assert codes[rank] not in (0, KILLED)
        assert f"rank {killed} (process {ranks.processes[killed]} on " in ranks.log(rank), ranks.log(rank)
        assert "Traceback" not in ranks.log(rank)


def test_a_rank_that_stands_still_ends_the_others(data: Path, tmp_path: Path) -> None:
    def change(rank: int) -> None:
        rank_failure.BEAT, rank_failure.SILENCE = 0.1, 60
        if rank == 1:
            at_batch(3, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    ranks = train_on(2, data, tmp_path, "--max-update 50 --disable-validation", change)
    try:
        assert ranks.first().wait(60) == [rank_failure.EXIT_ALONE]
    finally:
        os.kill(ranks.processes[1], signal.SIGKILL)
        os.waitpid(ranks.processes[1], 0)
    assert f"rank 1 has not been heard of for 6 s (process {ranks.processes[1]}" in ranks.log(0)


def test_a_rank_that_does_not_answer(data: Path, tmp_path: Path) -> None:
    """It is alive, so that the time limit of the ranks has to end the others."""

    def change(rank: int) -> None:
        if rank == 1:
            at_batch(3, lambda: time.sleep(600))

    ranks = train_on(2, data, tmp_path, "--max-update 50 --disable-validation --heartbeat-timeout 3", change)
    try:
        assert ranks.first().wait(60) == [1]
    finally:
        os.kill(ranks.processes[1], signal.SIGKILL)
        os.waitpid(ranks.processes[1], 0)
    assert "one of them may be stuck (distributed_training.heartbeat_timeout" in ranks.log(0)


def test_a_full_disk_ends_no_rank(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    def change(rank: int) -> None:
        save = SMoETrainer.save_checkpoint

        def full_at_first(self: SMoETrainer, *args: Any) -> Any:
            if self.get_num_updates() == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return save(self, *args)

        SMoETrainer.save_checkpoint = full_at_first  # type: ignore[method-assign]

    ranks = train_on(2, data, tmp_path, f"{DROPOUT} --max-update 4", change)
    ranks.succeed()
    assert "CHECKPOINT NOT SAVED: no space left" in ranks.log(0)
    assert not (tmp_path / "checkpoint_1_2.pt").exists() and same_weights(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    "name", ["train.aa-en.en.bin", "train.bb-en.bb.idx", "valid.aa-en.aa.bin", "dict.txt", "corpus.json"]
)
def test_a_data_folder_cut_short_is_found_before_the_first_update(name: str, tmp_path: Path) -> None:
    data = make_toy_folder(tmp_path / "data", sizes={"train": 46, "valid": 9, "test": 9})
    with (data / name).open("r+b") as file:
        file.truncate((data / name).stat().st_size - 40)
    ranks = train_on(2, data, tmp_path / "run", "--max-update 1", lambda _: at_batch(1, lambda: print("TRAINED")))
    assert ranks.wait() == [1, 1]
    assert any(f"error: {data / name}" in ranks.log(rank) for rank in range(2)), ranks.log(0)
    assert not any(word in ranks.log(rank) for rank in range(2) for word in ("TRAINED", "Traceback"))


BATCHES = 8  # of an update, over all ranks


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five updates of one process, the last in the midst of the third epoch."""
    folder = tmp_path_factory.mktemp("alone")
    train_on(1, data, folder, f"--update-freq {BATCHES} --max-update 5 --disable-validation").succeed()
    return folder


@pytest.mark.parametrize("numbers", [(1, 2, 4, 1, 4), (4, 2, 1, 2, 4)])
def test_goes_on_as_another_number_of_ranks(numbers: tuple[int, ...], data: Path, alone: Path, tmp_path: Path) -> None:
    """An update of each, in mid-epoch and over its end, comes to what one process makes of it, to rounding."""
    for made, ranks in enumerate(numbers, start=1):
        options = f"--update-freq {BATCHES // ranks} --max-update {made} --disable-validation"
        train_on(ranks, data, tmp_path, options).succeed()
    found, expected = state(tmp_path), state(alone)
    for name, weights in expected["model"].items():
        torch.testing.assert_close(found["model"][name], weights, rtol=0, atol=2e-4)
    for number, moments in expected["last_optimizer_state"]["state"].items():
        for name, moment in moments.items():
            other = found["last_optimizer_state"]["state"][number][name]
            torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(moment), rtol=1e-3, atol=1e-5)
    for each in (found, expected):
        position = each["extra_state"]["train_iterator"]
        assert (position["epoch"], position["batches_in_epoch"]) == (3, BATCHES)
