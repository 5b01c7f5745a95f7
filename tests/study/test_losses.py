"""What a study concludes from validation losses alone."""

from __future__ import annotations

import pytest

from smoe_mt.study.losses import as_markdown, losses
from smoe_mt.study.plan import read_plan


def concluded() -> dict[str, object]:
    """Two systems of `causes`: the first with both seeds, the second with one."""
    curves = {
        "smoe_2_2_2_2/seed1": [(500, 7.0), (1500, 6.0)],
        "smoe_2_2_2_2/seed2": [(500, 7.1), (1500, 6.1)],
        "no_balance/seed1": [(500, 7.2), (1500, 6.25)],
    }
    return losses(read_plan("causes"), curves)


def test_losses_are_those_of_the_last_update() -> None:
    assert concluded()["losses"] == {"smoe_2_2_2_2": {1: 6.0, 2: 6.1}, "no_balance": {1: 6.25}}


def test_differences_are_between_runs_of_one_seed() -> None:
    by_system = {one["system"]: one["differences"] for one in concluded()["comparisons"]}  # type: ignore[attr-defined]
    assert by_system["no_balance"] == {1: pytest.approx(0.25)}
    assert by_system["capacity_1"] == {}


def test_the_table_says_what_is_not_there() -> None:
    text = as_markdown({**concluded(), "left_out": ["capacity_1/seed1"]})
    assert "Not trained: capacity_1/seed1." in text
    assert "| no_balance - smoe_2_2_2_2 (balance weight 0) | +0.250 | +0.250 |" in text
    assert "no seed has both" in text
