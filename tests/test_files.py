"""Nothing half-written gets its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.files import whole_file, whole_folder


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_fails_leaves_the_earlier(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("earlier")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("place", ["no/such/a", "file/a"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), whole_file(tmp_path / place) as temporary:
        temporary.write_text("x")


def test_a_folder_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with whole_folder(tmp_path / "a") as temporary:
        (temporary / "new").touch()
        assert (tmp_path / "a" / "old").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/new"]


def test_a_folder_that_fails_leaves_the_earlier(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a") as temporary:
        (temporary / "new").touch()
        raise ZeroDivisionError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/old"]
