"""The pool: jobs side by side, skipped where their result is there, stopped in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.study.jobs import Job, Pool, slots_of


def job(tmp_path: Path, name: str, *command: str) -> Job:
    log = tmp_path / f"{name}.log"
    return Job("train", name, command, log, (tmp_path / name).is_file, finish=(tmp_path / name).touch)


def test_a_job_that_fails_ends_its_chain_and_no_other(tmp_path: Path) -> None:
    chains = [
        [job(tmp_path, "bad", "no-such-verb"), job(tmp_path, "after", "--version")],
        [job(tmp_path, "good", "--version"), job(tmp_path, "last", "--version")],
    ]
    pool = Pool(slots_of(2, 0, bind=False), None)
    pool.run(chains, lambda running: None)
    assert [(one.job.item, one.code) for one in pool.failures] == [("bad", 2)]
    assert "unknown command" in pool.failures[0].said
    assert [chain_job.done() for chain in chains for chain_job in chain] == [False, False, True, True]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "done").touch()
    Pool(slots_of(1, 0, bind=False), None).run([[job(tmp_path, "done", "no-such-verb")]], lambda running: None)
    assert not (tmp_path / "done.log").exists()


def test_nothing_is_started_once_time_is_up(tmp_path: Path) -> None:
    pool = Pool(slots_of(1, 0, bind=False), 0.0)
    pool.run([[job(tmp_path, "late", "--version")]], lambda running: None)
    assert pool.interrupted and not (tmp_path / "late.log").exists()


@pytest.mark.parametrize("bind", [False, True])
def test_places_are_told_apart(bind: bool) -> None:
    assert len({*slots_of(5, 0, bind)}) == 5


def test_updates_are_read_from_a_log(tmp_path: Path) -> None:
    one = job(tmp_path, "some", "train")
    assert one.made() == 0
    one.log.write_text("epoch 1: num_updates=100, lr=1\n... | num_updates 200 | lr 2\n")
    assert one.made() == 200
    assert one.progress() == ""
    one.log.write_text("update 1,800 of 4,000: loss 5.8\nupdate 1,900 of 4,000: loss 5.7\nwarning: odd\n")
    assert one.made() == 1900 and one.progress() == "update 1,900 of 4,000: loss 5.7"
