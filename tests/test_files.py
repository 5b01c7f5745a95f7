"""Nothing half-written gets its name, what a person named is written where it leads, and names from files lead nowhere else."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.errors import UserError
from smoe_mt.files import (
    CannotWrite,
    atomic_file,
    atomic_path,
    check_output,
    checked_name,
    open_plain,
    output,
    output_file,
    path_inside,
    write_bytes,
    write_text,
    writing,
)
from smoe_mt.temporary_names import MARK, sweep

LEFT_BEHIND = f".a.{MARK}-tmp-0123abcd"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "gone"])
def test_what_is_no_plain_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "device":
        path.symlink_to("/dev/zero")
    if kind == "folder":
        path.mkdir()
    with pytest.raises(OSError, match="no file" if kind != "gone" else "No such file"):
        open_plain(path)


def test_a_link_to_a_plain_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    with open_plain(tmp_path / "b") as stream:
        assert stream.read() == b"abc"


def test_a_name_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xffn")
    write_text(tmp_path / "a", name)
    with output(tmp_path / "b") as stream:
        stream.write(name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "r\\udcffn"


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "whole"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_file_that_fails_leaves_the_earlier(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "a").write_text("earlier")
    with pytest.raises((ZeroDivisionError, CannotWrite)), atomic_file(tmp_path / "a") as stream:
        stream.write(b"half")
        raise error
    assert (tmp_path / "a").read_text() == "earlier"
    assert names(tmp_path) == ["a"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_bytes(tmp_path / "a", b"new")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("place", ["no/such/a", "file/a", "a" * 256])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written") as raised:
        write_text(tmp_path / place, "x")
    assert "\n" not in str(raised.value)


def test_an_error_of_writing_keeps_its_number_between_processes(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite) as raised:
        write_text(tmp_path / "no" / "a", "x")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert copy.errno == errno.ENOENT and str(copy) == str(raised.value)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * 255), "x")
    assert names(tmp_path) == ["a" * 255]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o600)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_link_in_a_folder_of_ours_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a").symlink_to("precious")
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "a").is_symlink()


# --- what killed processes leave ---


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        with atomic_file(tmp_path / "a") as stream:
            stream.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(f".a.{MARK}-tmp-")
    write_text(tmp_path / "b", "x")
    assert names(tmp_path) == ["b"]


def test_what_a_living_process_writes_is_not_swept(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as stream:
        assert sweep(tmp_path) == []
        stream.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_sweeping_follows_no_links_and_leaves_other_names(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes").touch()
    (tmp_path / LEFT_BEHIND).symlink_to("precious")
    (tmp_path / "notes.tmp").touch()
    os.mkfifo(tmp_path / f".fifo.{MARK}-tmp-0123abcd")
    assert sweep(tmp_path) == []
    assert (tmp_path / "precious" / "notes").exists() and (tmp_path / "notes.tmp").exists()


# --- outputs that a person named ---


def test_an_output_that_is_a_link_is_written_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/a")
    for text in ("new", "newer"):
        with output(tmp_path / "link") as stream:
            stream.write(text)
        assert (tmp_path / "folder" / "a").read_text() == text
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "folder") == ["a"]


def test_an_output_that_is_a_pipe_is_written_straight(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    with output(tmp_path / "pipe") as stream:
        stream.write("text")
    reader.join()
    assert got == ["text"] and (tmp_path / "pipe").is_fifo()


def test_a_device_stays_one() -> None:
    with output("/dev/null") as stream:
        stream.write("text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_that_is_full_is_told_in_a_line() -> None:
    with pytest.raises(CannotWrite, match="/dev/full: cannot be written"), output("/dev/full") as stream:
        stream.write("text")


def test_the_file_that_is_our_own_output_is_not_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    print("before", flush=True)
    with output("/dev/stdout") as stream:
        stream.write("text\n")
    print("after", flush=True)
    assert capfd.readouterr().out == "before\ntext\nafter\n"


@pytest.mark.parametrize("kind", ["folder", "socket", "loop", "nowhere"])
def test_an_output_that_cannot_be_one_is_refused_before_the_work(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    if kind == "folder":
        Path("a").mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a")
    elif kind == "loop":
        Path("a").symlink_to("a")
    else:
        Path("a").symlink_to("no/such/b")
    before = os.lstat("a")
    with pytest.raises(UserError):
        check_output("a")
    assert os.lstat("a").st_ino == before.st_ino


def test_a_checkpoint_does_not_go_into_a_pipe_or_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for place in (tmp_path / "pipe.pt", "/dev/null"):
        with pytest.raises(UserError, match="give the name of a file"):
            output_file(place)


# --- names that come from files ---


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", "a\0", "a\n", "\x7f", "\ud800", "ä" * 128, "a" * 256, 3, None, ["a"]]
)
def test_what_is_no_name_is_refused_in_a_line(name: object) -> None:
    with pytest.raises(UserError, match=r"^corpus\.json: ") as raised:
        checked_name(name, "corpus.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["a", "..a", "a..", "train.sv-en.sv.bin", "中文", "a b", "a" * 255])
def test_names_are_names(name: str) -> None:
    assert checked_name(name, "corpus.json") == name


@given(st.text(max_size=20))
def test_a_path_by_a_name_stays_inside(name: str) -> None:
    folder = Path("/some/folder")
    try:
        path = path_inside(folder, name, "corpus.json")
    except UserError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(folder) and path != folder


def test_a_path_by_a_name_leads_over_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "text").symlink_to("../elsewhere")
    with pytest.raises(UserError, match="leads over a link"):
        path_inside(tmp_path / "inside", "text/notes", "corpus.json")


def test_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(CannotWrite, match=r"taken: cannot be written \(a file is there, and no folder\)"),
        writing(tmp_path / "taken"),
    ):
        (tmp_path / "taken").mkdir(exist_ok=True)
