"""Which checkpoint a run goes on from when files are damaged."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq_cli import train

from smoe_mt.checkpoints.reading import check_whole
from smoe_mt.errors import UserError
from smoe_mt.paths import user_dir
from smoe_mt.training.resuming import whole_checkpoint
from tests.training.test_trainer import OPTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_text: Path) -> Path:
    """A run of 6 updates that kept 2, 4 and 6, and validated."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        start(patch, toy_text, folder, "--max-update 6")
    return folder


def start(patch: pytest.MonkeyPatch, data: Path, folder: Path, options: str) -> None:
    command = f"fairseq-train {data} --user-dir {user_dir()} --task many_to_many_translation {OPTIONS} --lr 0.01"
    command += f" --moe stratified --strata 2,2 --max-tokens 200 --save-interval-updates 2 {options}"
    patch.setattr(sys, "argv", f"{command} --save-dir {folder}".split())
    train.cli_main()


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_weights(path: Path) -> None:
    """A flipped byte of the weights, which torch itself would not notice."""
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"]["encoder.layers.0.fc1.weight"].numpy().tobytes()
    data[data.index(weights) + 5] ^= 1
    path.write_bytes(bytes(data))
    torch.load(path, weights_only=True)


@pytest.mark.parametrize("damage", [cut, flip_a_byte_of_the_weights])
def test_a_damaged_file_is_found(run: Path, damage) -> None:  # type: ignore[no-untyped-def]
    check_whole(run / "checkpoint_last.pt")
    damage(run / "checkpoint_last.pt")
    with pytest.raises(UserError, match=r"checkpoint_last\.pt"):
        check_whole(run / "checkpoint_last.pt")


def test_a_whole_last_checkpoint_is_taken(run: Path) -> None:
    assert whole_checkpoint(run / "checkpoint_last.pt") == run / "checkpoint_last.pt"


def test_in_place_of_a_damaged_one_the_newest_whole_one(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(run / "checkpoint_last.pt")
    assert whole_checkpoint(run / "checkpoint_last.pt").name == "checkpoint_1_6.pt"
    cut(run / "checkpoint_1_6.pt")
    with caplog.at_level(logging.ERROR):
        assert whole_checkpoint(run / "checkpoint_last.pt").name == "checkpoint_1_4.pt"
    assert "DAMAGED CHECKPOINT" in caplog.text and "continues from" in caplog.text
    cut(run / "checkpoint_1_4.pt")
    cut(run / "checkpoint_1_2.pt")
    assert whole_checkpoint(run / "checkpoint_last.pt").name == "checkpoint_best.pt"


def test_in_place_of_a_missing_one_the_newest_whole_one(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "checkpoint_last.pt").unlink()
    cut(run / "checkpoint_1_6.pt")
    assert whole_checkpoint(run / "checkpoint_last.pt").name == "checkpoint_1_4.pt"
    assert "checkpoint_last.pt is missing: the training continues from" in caplog.text


def test_a_folder_without_checkpoints_has_none_to_go_on_from(tmp_path: Path) -> None:
    assert whole_checkpoint(tmp_path / "checkpoint_last.pt") == tmp_path / "checkpoint_last.pt"


def test_none_is_whole(run: Path) -> None:
    for path in run.glob("*.pt"):
        cut(path)
    with pytest.raises(UserError, match=r"checkpoint_last\.pt: not a whole .* no intact checkpoint next to it"):
        whole_checkpoint(run / "checkpoint_last.pt")


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_run_goes_on_from_it_and_ends_the_same(
    run: Path, finished: Path, toy_text: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("checkpoint_last.pt", "checkpoint_1_6.pt"):
        damage(run / name)
    (run / "checkpoint_last.pt.partial").touch()
    with pytest.MonkeyPatch.context() as patch:
        start(patch, toy_text, run, "--max-update 6")
    assert not (run / "checkpoint_last.pt.partial").exists()
    there, here = (torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"] for folder in (finished, run))
    assert all(torch.equal(there[name], here[name]) for name in there)
