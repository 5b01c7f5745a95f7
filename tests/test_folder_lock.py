"""One process at a time in a folder, and a dead one's lock is no obstacle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.folder_lock import LOCK, FolderLock

HOLD = "import sys; from smoe_mt.folder_lock import FolderLock; FolderLock.take(sys.argv[1], 'a training', 'wait'); print(1, flush=True); sys.stdin.read()"


def take(folder: Path) -> FolderLock:
    return FolderLock.take(folder, "a training", "choose another checkpoint.save_dir")


def rewritten(folder: Path, **changes: object) -> None:
    lock = take(folder)
    record = json.loads((folder / LOCK).read_text())
    lock.release()
    (folder / LOCK).write_text(json.dumps(record | changes))


def test_a_second_process_is_told_who_has_the_folder_until_that_one_is_killed(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    with pytest.raises(UserError, match=rf"in use by a training \(process {other.pid} on .*choose another"):
        take(tmp_path)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # killed, and still in the table of processes
    take(tmp_path).release()
    other.communicate()
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    rewritten(tmp_path, started="1")
    take(tmp_path).release()


def test_another_machines_lock_stays(tmp_path: Path) -> None:
    rewritten(tmp_path, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(UserError, match=rf"cannot see.*if it has ended, remove .*{LOCK}"):
        take(tmp_path)


def test_another_machines_lock_of_an_earlier_attempt_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(tmp_path, host="elsewhere", attempts={"SLURM_JOB_ID=7": 0})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    take(tmp_path).release()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}'])
def test_a_lock_that_names_nobody_is_said(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoe_mt.folder_lock.PAUSE", 0)
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(UserError, match="does not say which process"):
        take(tmp_path)
