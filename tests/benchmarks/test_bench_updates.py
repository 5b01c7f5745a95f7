"""Updates a second of a training: how long it goes on, and that no row lacks its number."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_updates
from benchmarks.bench_updates import command, measure, rates

LINE = "[2026-01-01][train_inner][INFO] - {content}\n"


def arguments(**given: Any) -> Namespace:
    settings = {"device": "cpu", "dtype": "fp32", "optimizer": "adam", "seconds": 7.2, "log_interval": 1, "at_once": 1}
    return Namespace(**settings, **{"updates": None, **given})


def ends(args: Namespace) -> set[str]:
    words = command("quickstart dense", "plain", Path("data"), Path("folder"), args)
    return {word for word in words if "max_update" in word or "stop_time" in word}


def test_a_training_ends_by_its_seconds_or_by_its_updates() -> None:
    assert ends(arguments()) == {"optimization.max_update=1000000", "optimization.stop_time_hours=0.002"}
    assert ends(arguments(updates=4)) == {"optimization.max_update=4"}


def logged(folder: Path, count: int) -> None:
    """As the log of a training of so many intervals, of 1, 2, ... updates a second."""
    lines = [f"epoch 001: {n} / 9 loss=8, ups={n}, num_updates={n}" for n in range(1, count + 1)]
    folder.mkdir(exist_ok=True)
    (folder / "hydra_train.log").write_text("".join(LINE.format(content=line) for line in lines))


def test_the_first_interval_does_not_count(tmp_path: Path) -> None:
    logged(tmp_path, 4)
    assert rates(tmp_path) == [2, 3, 4]


@pytest.mark.parametrize(("intervals", "row"), [(4, {"intervals": 3, "updates/s": 3.0, "together": 3.0}), (1, None)])
def test_a_row_has_its_number_or_there_is_none(
    intervals: int, row: dict[str, float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(model: str, way: str, data: Path, folder: Path, args: Namespace) -> list[str]:
        logged(folder, intervals)
        return ["true"]

    monkeypatch.setattr(bench_updates, "command", training)
    if row is None:
        with pytest.raises(SystemExit, match="ended before its second log interval"):
            measure("quickstart dense", "plain", tmp_path, arguments())
    else:
        found = measure("quickstart dense", "plain", tmp_path, arguments())
        assert {name: found[name] for name in row} == row
