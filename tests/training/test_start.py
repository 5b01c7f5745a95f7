"""What a training refuses before it loads text or builds a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from smoe_mt.errors import UserError
from smoe_mt.folder_lock import LOCK
from smoe_mt.training import start
from tests.toy import make_toy_folder

CHECKPOINT = {
    "restore_file": "checkpoint_last.pt",
    "checkpoint_suffix": "",
    "finetune_from_model": None,
    "best_checkpoint_metric": "loss",
    **dict.fromkeys(start.RESETS, False),
}
DATASET = {
    "train_subset": "train",
    "valid_subset": "valid",
    "disable_validation": False,
    "combine_valid_subsets": None,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("start") / "data")


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    start.end()


def config(save_dir: Path, data: Path | None = None, **settings: Any) -> Any:
    task = {"_name": start.TASK, "data": str(data)} if data else {"_name": "translation"}
    groups: dict[str, dict[str, Any]] = {"common": {"wandb_project": None}}
    groups |= {"checkpoint": {**CHECKPOINT, "save_dir": str(save_dir)}, "dataset": dict(DATASET), "task": task}
    for name, value in settings.items():
        groups["dataset" if name in DATASET else "checkpoint"][name] = value
    return OmegaConf.create(groups)


@pytest.mark.parametrize("setting", ["restore_file", "finetune_from_model", "continue_once"])
def test_a_checkpoint_that_was_named_and_is_missing(tmp_path: Path, setting: str) -> None:
    named = str(tmp_path / "none.pt")
    with pytest.raises(UserError, match=rf"checkpoint\.{setting}={named}: there is no such checkpoint; give the path"):
        start.begin(config(tmp_path / "run", **{setting: named}))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_place_of_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_best.pt").touch()
    with pytest.raises(UserError, match=f"did you mean {tmp_path}/checkpoint_best.pt"):
        start.begin(config(tmp_path / "run", finetune_from_model=str(tmp_path)))


def test_an_exported_folder_is_answered_with_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=f"did you mean {tmp_path}/model.safetensors"):
        start.begin(config(tmp_path / "run", finetune_from_model=str(tmp_path)))


def test_what_a_fine_tuning_began_with_may_be_gone_when_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_last.pt").touch()
    start.begin(config(tmp_path, finetune_from_model=str(tmp_path / "none.pt")))


def test_a_reset_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint\.reset_optimizer: there is no checkpoint to take up"):
        start.begin(config(tmp_path, reset_optimizer=True))


def test_a_reset_where_another_checkpoint_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "checkpoints_beside", lambda last: [last.with_name("checkpoint_1_3.pt")])
    start.begin(config(tmp_path, reset_optimizer=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_subset": "trian"}, "dataset.train_subset: .* no subset 'trian', but .*train"),
        ({"valid_subset": "dev"}, "dataset.valid_subset: .* no subset 'dev', .*disable_validation=true"),
        ({"valid_subset": "train"}, "train is what is trained on"),
        ({"best_checkpoint_metric": "ppl/xx-yy"}, "valid has no text of 'xx-yy', but of "),
    ],
)
def test_text_that_is_not_there(data: Path, tmp_path: Path, settings: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        start.begin(config(tmp_path, data, **settings))
    assert not (tmp_path / LOCK).exists()


def test_nothing_is_asked_of_validation_where_there_is_none(data: Path, tmp_path: Path) -> None:
    start.begin(config(tmp_path, data, valid_subset="dev", disable_validation=True))


def test_a_training_has_its_folder_until_it_ends(data: Path, tmp_path: Path) -> None:
    start.begin(config(tmp_path, data))
    assert (tmp_path / LOCK).is_file()
    start.end()
    assert not (tmp_path / LOCK).exists()


def test_the_next_job_of_a_process_gives_the_folder_of_the_last_to_others(data: Path, tmp_path: Path) -> None:
    start.begin(config(tmp_path / "first", data))
    start.begin(config(tmp_path / "second", data))
    assert not (tmp_path / "first" / LOCK).exists() and (tmp_path / "second" / LOCK).is_file()
