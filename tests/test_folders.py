"""A folder is whole or not there, keeps what others put into it, and survives a kill at each step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from smoe_mt import folders, temporary_names
from smoe_mt.files import CannotWrite
from smoe_mt.folders import atomic_directory, exchange, restore, scratch_directory
from smoe_mt.temporary_names import MARK

OURS = ("model", "card")


def ours(folder: Path) -> list[str]:
    return [name for name in OURS if (folder / name).is_file()]


def fill(place: Path, content: str) -> None:
    with atomic_directory(place, ours) as folder:
        for name in OURS:
            (folder / name).write_text(content)


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(folders, "exchange", lambda first, second: False)
    else:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        if not exchange(tmp_path / "one", tmp_path / "other"):
            pytest.skip("this file system cannot exchange names")
        for name in ("one", "other"):
            (tmp_path / name).rmdir()
    return str(request.param)


def test_names_are_exchanged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "b").mkdir()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "b" / "x").exists() and not (tmp_path / "a" / "x").exists()


def test_a_folder_takes_the_place_of_the_earlier_and_keeps_what_is_not_ours(tmp_path: Path, way: str) -> None:
    place = tmp_path / "a"
    fill(place, "old")
    (place / ".git").mkdir()
    (place / ".git" / "config").write_text("mine")
    (place / "notes").write_text("mine")
    (place / "link").symlink_to("nowhere")
    place.chmod(0o700)
    fill(place, "new")
    assert tree(place) == {"model": "new", "card": "new", ".git/config": "mine", "notes": "mine"}
    assert (place / "link").is_symlink() and place.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_not_ours_and_has_a_name_of_ours_stays_under_another(tmp_path: Path, way: str) -> None:
    place = tmp_path / "a"
    fill(place, "old")
    for text in ("mine", "mine again"):
        (place / "card").write_text(text)
        with atomic_directory(place, lambda _: ["model"]) as folder:
            (folder / "card").write_text("new")
    assert tree(place) == {"card": "new", "card.earlier": "mine", "card.earlier-2": "mine again"}


def test_a_folder_that_fails_leaves_the_earlier(tmp_path: Path) -> None:
    fill(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "a", ours) as folder:
        (folder / "model").write_text("half")
        raise ZeroDivisionError
    assert tree(tmp_path) == {"a/model": "old", "a/card": "old"}


def test_a_link_to_a_folder_stays_one(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "far" / "a", "old")
    (tmp_path / "a").symlink_to("far/a")
    fill(tmp_path / "a", "new")
    assert (tmp_path / "a").is_symlink() and tree(tmp_path / "far") == {"a/model": "new", "a/card": "new"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(CannotWrite, match="no folder"):
        fill(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "mine"


def killed_after(steps: int, work: Callable[[], None]) -> bool:
    """Whether a process that does this was killed before step `steps` of those that change names."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    left = steps

    def counted(step: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object, **kwargs: object) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return step(*args, **kwargs)

        return counting

    for name in ("rename", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    folders.exchange = counted(folders.exchange)  # type: ignore[assignment]
    with suppress(BaseException):
        work()
        os._exit(0)
    os._exit(1)


def test_a_kill_at_any_step_loses_nothing_and_the_next_run_leaves_nothing(tmp_path: Path, way: str) -> None:
    steps, killed = 0, True
    while killed:
        home = tmp_path / str(steps)
        place = home / "a"
        fill(place, "old")
        (place / "notes").write_text("mine")
        killed = killed_after(steps, lambda place=place: fill(place, "new"))  # type: ignore[misc]
        if way == "exchange":
            content = {(place / name).read_text() for name in OURS}
            assert len(content) == 1, f"killed at step {steps}: half of one and half of the other"
        assert "mine" in tree(home).values(), f"killed at step {steps}"
        temporary_names._swept.clear()  # as in a new process
        restore(place, ours)
        assert tree(place) in ({"model": one, "card": one, "notes": "mine"} for one in ("old", "new"))
        fill(place, "newest")
        assert tree(home) == {"a/model": "newest", "a/card": "newest", "a/notes": "mine"}
        assert os.listdir(home) == ["a"], f"killed at step {steps}"
        steps += 1
    assert steps > 5  # mkdir, renames, and a removal for each file


def test_what_another_process_is_exchanging_is_left_alone(tmp_path: Path) -> None:
    earlier = tmp_path / f".a.{MARK}-old-0123abcd"
    earlier.mkdir()
    with folders.holding(earlier):
        restore(tmp_path / "a", ours)
        assert earlier.exists()
    restore(tmp_path / "a", ours)
    assert os.listdir(tmp_path) == ["a"]


def test_a_scratch_folder_goes_and_may_be_given_a_name(tmp_path: Path) -> None:
    with scratch_directory(tmp_path, "work") as folder:
        (folder / "x").touch()
    assert os.listdir(tmp_path) == []
    with scratch_directory(tmp_path, "work") as folder:
        (folder / "x").touch()
        folder.rename(tmp_path / "work")
    assert tree(tmp_path) == {"work/x": ""}
