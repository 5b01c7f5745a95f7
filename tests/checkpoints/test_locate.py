"""A checkpoint finds its data folder from any folder, and where run and data have moved together."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.checkpoints.locate import data_folder_of


@pytest.mark.parametrize("root", ["", "/before"])
def test_the_data_folder_lies_to_the_run_as_it_did_in_training(tmp_path: Path, root: str) -> None:
    (tmp_path / "data/x").mkdir(parents=True)
    (tmp_path / "runs/y").mkdir(parents=True)
    before = Path(root)
    settings = {"task": {"data": str(before / "data/x")}, "checkpoint": {"save_dir": str(before / "runs/y")}}
    assert data_folder_of(settings, tmp_path / "runs/y/checkpoint_best.pt") == tmp_path / "data/x"


def test_a_data_folder_that_is_gone_is_named_as_it_was(tmp_path: Path) -> None:
    assert data_folder_of({"task": {"data": "/gone"}}, tmp_path / "c.pt") == Path("/gone")
    assert data_folder_of({"task": {}}, tmp_path / "c.pt") is None
