"""A disk that is full: curves and logs stop, training does not."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from fairseq.logging import progress_bar

from smoe_mt import register
from smoe_mt.fairseq_patches import writers

pytest.importorskip("tensorboard")


class FullDisk:
    """TensorBoard's file, on a disk that takes `room` bytes more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, content: bytes) -> int:
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(content)

    def flush(self) -> None:
        self.write(b"")

    def close(self) -> None:
        self.flush()


@pytest.fixture(autouse=True)
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(writers, "_unwritable", set())
    monkeypatch.setattr(progress_bar, "_tensorboard_writers", {})


def bar_on(folder: Path) -> Any:
    return progress_bar.TensorboardProgressBarWrapper(progress_bar.NoopProgressBar([1, 2]), str(folder))


@pytest.mark.parametrize("room", [0, 50, 300, 1000])
def test_a_full_disk_ends_curves_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any, room: int
) -> None:
    """Through the real writer and its thread, wherever the error comes up."""
    from tensorboard.compat import tf

    monkeypatch.setattr(tf.io.gfile, "GFile", lambda *_: FullDisk(room))
    bar = bar_on(tmp_path)
    for step in range(50):
        bar.log({"loss": 1.0, "num_updates": step}, tag="train", step=step)
    progress_bar._close_writers()
    said = [message for message in caplog.messages if "training continues" in message]
    assert len(said) == 1 and str(tmp_path) in said[0] and "No space left" in said[0]
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_for_curves_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    bar = bar_on(tmp_path / "file" / "curves")
    bar.log({"loss": 1.0, "num_updates": 1}, tag="train", step=1)
    assert "curves cannot be written" in caplog.text


def test_curves_are_written_where_there_is_room(tmp_path: Path) -> None:
    bar_on(tmp_path).log({"loss": 1.0, "num_updates": 1}, tag="train", step=1)
    progress_bar._close_writers()
    assert [path.stat().st_size > 100 for path in (tmp_path / "train").iterdir()] == [True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_log_file_on_a_full_disk_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.FileHandler("/dev/full")
    for _ in range(3):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "line", (), None))
    error = capsys.readouterr().err
    assert error == "warning: the log cannot be written to /dev/full (No space left on device); training continues\n"


def test_other_errors_of_logging_keep_their_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logging.StreamHandler().handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("x",), None))
    assert "Traceback" in capsys.readouterr().err
