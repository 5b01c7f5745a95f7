from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from smoe_mt.temporary_names import MARK, PARTIAL, holding
from smoe_mt.training.whole_files import copy_whole, remove_leftovers


@pytest.mark.parametrize("by_file_system", [True, False])
def test_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_file_system: bool) -> None:
    if not by_file_system:

        def refuse(*_: object) -> int:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    data = os.urandom(3_000_000)
    (tmp_path / "a.pt").write_bytes(data)
    (tmp_path / "b.pt").write_bytes(b"old")
    copy_whole(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_bytes() == data
    assert not (tmp_path / "b.pt").samefile(tmp_path / "a.pt")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    own = [f"checkpoint_last.pt{PARTIAL}", "checkpoint_1_5.pt.tmp", f".checkpoint_best.pt.{MARK}-tmp-0123abcd"]
    for name in (*own, "checkpoint_last.pt", "notes.tmp", "notes.partial"):
        (tmp_path / name).touch()
    for name in (f"shards_5{PARTIAL}", f"shards_6{PARTIAL}"):
        (tmp_path / name).mkdir()
    with holding(tmp_path / f"shards_6{PARTIAL}"):  # as the run that writes it does
        removed = remove_leftovers(tmp_path)
    assert sorted(path.name for path in removed) == sorted([*own, f"shards_5{PARTIAL}"])
    there = ["checkpoint_last.pt", "notes.partial", "notes.tmp", f"shards_6{PARTIAL}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == there
