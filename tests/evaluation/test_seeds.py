"""Runs that differ only in their seed stand together."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.seeds import by_setting, mean_and_spread, setting_of
from smoe_mt.evaluation.table import scores_table
from tests.evaluation.test_table import evaluation

CONFIG = {
    "common": {"seed": 1},
    "model": {"moe": "vanilla"},
    "task": {"seed": 1, "data": "a", "sampling_temperature": 1},
    "optimization": {"lr": [0.1]},
    "checkpoint": {"save_dir": "a"},
}


def setting(updates: int = 9, **changes: object) -> str:
    config = OmegaConf.create(CONFIG)
    for name, value in changes.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return setting_of(config, updates)


def test_seed_and_places_do_not_count() -> None:
    assert setting() == setting(common__seed=2, task__seed=2, task__data="b", checkpoint__save_dir="b")


@pytest.mark.parametrize(
    "change",
    [{"updates": 10}, {"model__moe": "none"}, {"task__sampling_temperature": 5}, {"optimization__lr": [0.2]}],
    ids=str,
)
def test_all_else_does(change: dict[str, object]) -> None:
    assert setting() != setting(**change)  # type: ignore[arg-type]


def seeded(name: str, value: float, seed: int, same: str = "x") -> Evaluation:
    one = evaluation(name, value)
    return Evaluation(name, one.corpora, one.scores, one.baselines, {"seed": seed, "setting": same})


def test_seeds_of_one_setting_share_their_columns() -> None:
    runs = [seeded("dense/seed1", 10, 1), seeded("smoe/seed1", 30, 1, "y"), seeded("dense/seed2", 12, 2)]
    table = scores_table(runs)
    assert ".dense seeds 1,2." in table.splitlines()[0] and "smoe/seed1" in table.splitlines()[0]
    assert table.splitlines()[0].count("seed") == 2
    row = next(line for line in table.splitlines() if line.startswith("nso-en"))
    assert row.split()[:4] == ["nso-en", "3.0", "11.0", "±1.4"]
    assert table.splitlines()[-1] == "± standard deviation over seeds"


def test_the_same_seed_twice_is_no_spread() -> None:
    runs = [seeded("a/x", 10, 1), seeded("b/x", 12, 1)]
    assert [group.name for group in by_setting(runs)] == ["a/x", "b/x"]
    assert "±" not in scores_table(runs)


def test_spread_is_the_standard_deviation_of_a_sample() -> None:
    assert mean_and_spread([1.0, 2.0, 4.5], 2) == "2.50 ±1.80"
    assert mean_and_spread([1.25], 1) == "1.2"
