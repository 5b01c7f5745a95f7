"""What is loaded, and what is refused in words."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import torch

from smoe_mt.checkpoints.locate import find_checkpoint, results_folder
from smoe_mt.devices import pick_device
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun
from tests.toy import make_toy_folder


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint_last.pt", "checkpoint_best.pt", "checkpoint1.pt")
    assert find_checkpoint(tmp_path).name == "checkpoint_best.pt"


def test_without_a_best_one_the_last(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint_last.pt", "checkpoint1.pt")
    assert find_checkpoint(tmp_path).name == "checkpoint_last.pt"


def test_a_file_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint1.pt", "checkpoint_best.pt")
    assert find_checkpoint(tmp_path / "checkpoint1.pt").name == "checkpoint1.pt"


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_no_checkpoint_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"checkpoint\.save_dir"):
        find_checkpoint(tmp_path / name)


def test_results_of_other_checkpoints_get_a_folder_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint_best.pt", "checkpoint_last.pt")
    assert results_folder(tmp_path / "checkpoint_best.pt", "evaluation") == tmp_path / "evaluation"
    assert results_folder(tmp_path / "checkpoint_last.pt", "evaluation") == tmp_path / "evaluation" / "checkpoint_last"


def test_name_that_is_not_utf8_is_told() -> None:
    with pytest.raises(UserError, match="a name that is not UTF-8; rename it"):
        find_checkpoint("caf\udce9")


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu9", "mps", "meta", None):
        with pytest.raises(UserError, match=f"unknown device {name!r}"):
            pick_device(name)  # type: ignore[arg-type]


def test_loads_in_evaluation_mode(trained_run: TrainedRun) -> None:
    loaded = load_model(trained_run.folder, device="cpu")
    assert not loaded.model.training
    assert loaded.updates > 0
    assert loaded.checkpoint == trained_run.folder / "checkpoint_best.pt"


def test_a_moved_data_folder(trained_run: TrainedRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    content = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    content["cfg"]["task"]["data"] = str(tmp_path / "gone")
    torch.save(content, run / "checkpoint_best.pt")
    with pytest.raises(UserError, match="gone is not there; .*--data"):
        load_model(run, device="cpu")
    moved = shutil.copytree(trained_run.data, tmp_path / "moved")
    assert load_model(run, moved, "cpu").task.folder.path == moved


def test_a_data_folder_of_another_vocabulary(trained_run: TrainedRun, tmp_path: Path) -> None:
    other = make_toy_folder(tmp_path / "other", words=11, seed=5)
    with pytest.raises(UserError, match="(?i)vocabulary|dict"):
        load_model(trained_run.folder, other, "cpu")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_truncated_checkpoint(trained_run: TrainedRun, tmp_path: Path, share: float) -> None:
    content = (trained_run.folder / "checkpoint_best.pt").read_bytes()
    (tmp_path / "checkpoint_best.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="checkpoint_best.pt: not") as raised:
        load_model(tmp_path, trained_run.data, "cpu")
    assert "\n" not in str(raised.value)


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("some notes")
    with pytest.raises(UserError, match="notes.pt: not"):
        load_model(tmp_path / "notes.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"cfg": Payload()}, tmp_path / "checkpoint_best.pt")
    with pytest.raises(UserError, match="holds more than tensors"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_another_task(trained_run: TrainedRun, tmp_path: Path) -> None:
    content = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    content["cfg"]["task"]["_name"] = "translation"
    torch.save(content, tmp_path / "checkpoint_best.pt")
    with pytest.raises(UserError, match="translation, and smoe_mt reads those of many_to_many_translation"):
        load_model(tmp_path)


def test_a_state_dict_alone(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "args": argparse.Namespace()}, tmp_path / "checkpoint_best.pt")
    with pytest.raises(UserError, match="checkpoint_best.pt: "):
        load_model(tmp_path)


@pytest.mark.parametrize("setting", ["encoder_ffn_embed_dim", "encoder_embed_dim", "decoder_embed_dim"])
def test_weights_that_do_not_fit(setting: str, trained_run: TrainedRun, tmp_path: Path) -> None:
    content = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    content["cfg"]["model"][setting] = 24
    torch.save(content, tmp_path / "checkpoint_best.pt")
    with pytest.raises(UserError, match="weights do not fit|describe a model of at least"):
        load_model(tmp_path, device="cpu")


def test_a_checkpoint_from_before_a_system_came_loads(trained_run: TrainedRun, tmp_path: Path) -> None:
    content = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    for name in ("xmoe_threshold", "xmoe_split", "xmoe_most", "mpoe_shape", "mpoe_bond", "mpoe_central_mask"):
        del content["cfg"]["model"][name]
    torch.save(content, tmp_path / "checkpoint_best.pt")
    assert load_model(tmp_path, data=trained_run.data, device="cpu").updates == load_model(trained_run.folder).updates
