"""fairseq splits paths at colons only where the whole is not there."""

from __future__ import annotations

from pathlib import Path

from fairseq import utils

from smoe_mt import register


def test_a_path_with_a_colon_that_is_there_is_one(tmp_path: Path) -> None:
    register()
    (tmp_path / "a:b").mkdir()
    assert utils.split_paths(f"{tmp_path}/a:b") == [f"{tmp_path}/a:b"]
    assert utils.split_paths("a:b") == ["a", "b"]
