"""A training's paths are absolute before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from smoe_mt.checkpoints.names import LAST
from smoe_mt.errors import UserError
from smoe_mt.training.given_paths import make_absolute


def test_relative_paths_and_home_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    checkpoint = {"save_dir": "runs/é", "restore_file": LAST, "finetune_from_model": None}
    cfg = OmegaConf.create({"task": {"data": "~/data"}, "checkpoint": checkpoint})
    make_absolute(cfg)
    assert cfg.task.data == "/h/data"
    assert cfg.checkpoint == {**checkpoint, "save_dir": f"{tmp_path}/runs/é"}


def test_a_folder_with_a_reference_in_its_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "${a}").mkdir()
    monkeypatch.chdir(tmp_path / "${a}")
    with pytest.raises(UserError, match="task.data: .* rename that folder"):
        make_absolute(OmegaConf.create({"task": {"data": "data"}}))
