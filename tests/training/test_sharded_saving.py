"""Training with sharded checkpoints is training without: on other ranks, after damage, on a full disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem

from smoe_mt.checkpoints.inspection import inspect_checkpoint
from smoe_mt.checkpoints.reading import open_checkpoint, read_checkpoint
from smoe_mt.checkpoints.sharded import PARTS, SHARDS
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.training.resuming import whole_checkpoint
from smoe_mt.training.sharded_saving import check_sharded
from smoe_mt.training.trainer import SMoETrainer
from tests.training.test_expert_parallel import assert_same, train_all

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

SHARDED = "--sharded-checkpoints"


def trained(data: Path, folder: Path, ranks: int, shared_by: int, updates: int, options: str = "") -> dict[str, Any]:
    """All of the last checkpoint."""
    job = (folder, (ranks, shared_by), "stratified", updates, f"--disable-validation {options}")
    train_all([job], data, folder.parent / f"{folder.name}-logs")
    return read_checkpoint(folder / "checkpoint_last.pt", PARTS)


@pytest.fixture(scope="module")
def alone(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process ends with, in one file."""
    return trained(toy_text, tmp_path_factory.mktemp("alone"), 1, 1, 4)


@pytest.fixture(scope="module")
def sharded_run(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with sharded checkpoints, of updates 2 and 4."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    trained(toy_text, folder, 1, 1, 4, SHARDED)
    return folder


@pytest.fixture
def run(sharded_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded_run, tmp_path / "run"))


def folder_of(checkpoint: Path) -> str:
    return str(open_checkpoint(checkpoint)[SHARDS]["folder"])


def test_it_is_the_same_training(sharded_run: Path, alone: dict[str, Any]) -> None:
    state = read_checkpoint(sharded_run / "checkpoint_last.pt", PARTS)
    assert all(torch.equal(state["model"][name], weight) for name, weight in alone["model"].items())
    assert_same(alone, state)


def test_all_names_of_an_update_share_its_tensors(sharded_run: Path) -> None:
    last, numbered = sharded_run / "checkpoint_last.pt", next(sharded_run.glob("checkpoint_*_4.pt"))
    assert folder_of(last) == folder_of(numbered) == "shards_4"
    assert sorted(path.name for path in sharded_run.glob("shards_*")) == ["shards_2", "shards_4"]
    assert last.stat().st_size < 100_000
    found = inspect_checkpoint(last)
    assert found["form"] == "sharded (1 files in shards_4)" and "resume" in found["uses"]
    assert found["bytes"] > last.stat().st_size + 4 * found["parameters"]["total"] * 3


@pytest.mark.parametrize("first, then", [((4, 2), (1, 1)), ((1, 1), (2, 2))])
def test_a_run_goes_on_with_other_ranks(
    first: tuple[int, int], then: tuple[int, int], alone: dict[str, Any], toy_text: Path, tmp_path: Path
) -> None:
    halfway = trained(toy_text, tmp_path, *first, 2, SHARDED)
    assert halfway["optimizer_history"][-1]["num_updates"] == 2
    assert_same(alone, trained(toy_text, tmp_path, *then, 4, SHARDED))
    assert load_model(tmp_path, device="cpu").updates == 4


def test_one_file_becomes_sharded_and_back(alone: dict[str, Any], toy_text: Path, tmp_path: Path) -> None:
    trained(toy_text, tmp_path, 2, 2, 2)
    trained(toy_text, tmp_path, 2, 2, 3, SHARDED)
    assert_same(alone, trained(toy_text, tmp_path, 2, 2, 4))


def test_folders_of_deleted_checkpoints_go_with_them(toy_text: Path, tmp_path: Path) -> None:
    (tmp_path / "shards_9.partial").mkdir()
    trained(toy_text, tmp_path, 1, 1, 4, f"{SHARDED} --keep-interval-updates 1")
    assert [path.name for path in tmp_path.glob("shards_*")] == ["shards_4"]
    assert not list(tmp_path.glob("checkpoint_*_2.pt"))


def test_damaged_tensors_fall_back_to_the_checkpoint_before(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file,) = (run / "shards_4").iterdir()
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert whole_checkpoint(run / "checkpoint_last.pt") == next(run.glob("checkpoint_*_2.pt"))
    assert "DAMAGED CHECKPOINT" in caplog.text and "shards_4" in caplog.text


def test_a_lost_folder_of_every_checkpoint_is_told(run: Path) -> None:
    for folder in run.glob("shards_*"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="is missing.*there is no intact checkpoint next to it"):
        whole_checkpoint(run / "checkpoint_last.pt")


def test_a_full_disk(toy_text: Path, tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On one of two ranks at update 2: the run goes on and saves at update 4."""
    create_stream = FileSystem.create_stream
    full: list[bool] = []

    def write(self: FileSystem, path: Any, mode: str) -> Any:
        if full and "shard-00002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create_stream(self, path, mode)

    def state_dict(self: SMoETrainer) -> dict[str, Any]:
        full[:] = [True] if self.get_num_updates() == 2 else []
        return original(self)

    original = SMoETrainer.state_dict
    monkeypatch.setattr(FileSystem, "create_stream", write)
    monkeypatch.setattr(SMoETrainer, "state_dict", state_dict)
    end = trained(toy_text, tmp_path, 2, 2, 4, SHARDED)
    assert_same(alone, end)
    assert [path.name for path in tmp_path.glob("shards_*")] == ["shards_4"]
    assert not list(tmp_path.glob("checkpoint_*_2.pt"))


@pytest.mark.parametrize("name", ["zero_sharding=os", "ddp_backend=fully_sharded"])
def test_what_does_not_go_together_is_refused(name: str) -> None:
    spread = SimpleNamespace(zero_sharding="none", ddp_backend="legacy_ddp")
    setattr(spread, *name.split("="))
    cfg = SimpleNamespace(distributed_training=spread, ema=SimpleNamespace(store_ema=False))
    with pytest.raises(UserError, match=f"{name} do not go together"):
        check_sharded(cfg)
