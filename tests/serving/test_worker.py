"""The worker's process."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from smoe_mt.errors import UserError
from smoe_mt.serving.arguments import add_arguments
from smoe_mt.serving.wire import Ask, CannotAnswer, WorkerLost
from smoe_mt.serving.worker import WorkerProcess
from tests.conftest import TrainedRun


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(given))


@pytest.fixture(scope="module")
def worker(trained_run: TrainedRun) -> Iterator[WorkerProcess]:
    made = WorkerProcess(arguments(str(trained_run.folder)))
    yield made
    made.close()


@pytest.mark.slow
def test_it_answers_refuses_dies_and_lives_again(worker: WorkerProcess) -> None:
    facts = worker.start()
    assert set(facts.targets) == {"aa", "bb", "en"}
    first = worker.translate([Ask(("fofo",), "aa", "en")])
    with pytest.raises(CannotAnswer, match="capacity"):
        worker.translate([Ask(("fofo",), "aa", "en", capacity="nonsense=1")])
    assert worker.translate([Ask(("fofo",), "aa", "en")]) == first
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        worker.translate([Ask(("fofo",), "aa", "en")])
    assert worker.start() == facts
    assert worker.translate([Ask(("fofo",), "aa", "en")]) == first


@pytest.mark.slow
def test_a_model_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="nowhere"):
        WorkerProcess(arguments("/nowhere/model")).start()


def test_the_server_itself_loads_nothing_large() -> None:
    program = "import smoe_mt.serving.command, sys; print(*{'torch', 'fairseq', 'hydra', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
