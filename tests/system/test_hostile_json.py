"""JSON of elsewhere that is nested without end, or no JSON, is one line wherever it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smoe_mt import cli
from tests.conftest import TrainedRun
from tests.system.test_bad_checkpoints import in_a_process

BOMBS = {
    "deep": "[" * 200_000,
    "deep object": '{"a":' * 100_000,
    "surrogate": '{"format": "\\ud800"}',
    "cut": '{"format": ',
}
Place = Callable[
    [Path, Path, Path], tuple[Path, list[str]]
]  # of an exported folder, a data folder, a run: file, command


def config(exported: Path, data: Path, run: Path) -> tuple[Path, list[str]]:
    return exported / "config.json", ["translate", "-m", str(exported), "-s", "aa", "-t", "en", str(data / "dict.txt")]


def inspected(exported: Path, data: Path, run: Path) -> tuple[Path, list[str]]:
    return exported / "config.json", ["checkpoint", "inspect", str(exported)]


def card(exported: Path, data: Path, run: Path) -> tuple[Path, list[str]]:
    command = ["translate", "-m", str(run), "-s", "aa", "-t", "en", "--data", str(data), str(data / "dict.txt")]
    return data / "corpus.json", command


def scores(exported: Path, data: Path, run: Path) -> tuple[Path, list[str]]:
    command = ["report", str(run), "--data", str(data), "--out", str(run / "report.html")]
    return run / "evaluation" / "test" / "scores.json", command


def hardware(exported: Path, data: Path, run: Path) -> tuple[Path, list[str]]:
    return run / "hardware.json", ["plan", "--hardware", str(run / "hardware.json")]


@pytest.mark.parametrize("bomb", list(BOMBS))
@pytest.mark.parametrize("place", [config, inspected, card, scores, hardware], ids=lambda one: one.__name__)
def test_it_is_told_in_one_line(place: Place, bomb: str, trained_run: TrainedRun, tmp_path: Path) -> None:
    run, data = tmp_path / "run", Path(shutil.copytree(trained_run.data, tmp_path / "data"))
    run.mkdir()
    shutil.copy(trained_run.folder / "checkpoint_best.pt", run)
    if place in (config, inspected):
        assert cli.main(["export", str(run), str(tmp_path / "exported")]) == 0
    file, command = place(tmp_path / "exported", data, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(BOMBS[bomb])
    code, errors = in_a_process(command, tmp_path)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and file.name in lines[0] and len(lines[0]) < 600, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_an_export_leaves_out_scores_that_cannot_be_read(bomb: str, trained_run: TrainedRun, tmp_path: Path) -> None:
    file = tmp_path / "run" / "evaluation" / "test" / "scores.json"
    file.parent.mkdir(parents=True)
    file.write_text(BOMBS[bomb])
    shutil.copy(trained_run.folder / "checkpoint_best.pt", tmp_path / "run")
    code, errors = in_a_process(["export", str(tmp_path / "run"), str(tmp_path / "exported")], tmp_path)
    assert code == 0 and "scores.json: no scores to read" in errors
