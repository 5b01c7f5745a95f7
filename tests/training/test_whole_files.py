from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from smoe_mt.training.whole_files import PARTIAL, copy_whole, remove_leftovers, whole_file


def test_the_name_is_given_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_older_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError), whole_file(path) as file:
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    with whole_file(tmp_path / "a.pt") as file:
        file.write(b"new")
    assert calls == ["fsync", "replace", "fsync"]


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
    for name in ("checkpoint_last.pt", f"checkpoint_last.pt{PARTIAL}", "checkpoint_1_5.pt.tmp", "notes.tmp"):
        (tmp_path / name).touch()
    assert len(remove_leftovers(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "notes.tmp"]
