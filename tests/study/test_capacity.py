"""Requested against needed capacity in a study's results."""

from __future__ import annotations

import math
from typing import Any

import pytest

from smoe_mt.study.capacity import capacity_tables, gains_by_direction, spearman


def cell(visits: float | None, lost: float | None) -> dict[str, dict[str, float | None]]:
    return {"requested": {"decoder": visits}, "lost": {"decoder: 1": lost}}


def test_ranks_correlate_whatever_the_scale() -> None:
    assert spearman([1, 2, 3, 4], [0.1, 5, 6, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


def test_equal_values_share_their_rank() -> None:
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: a correlation of sqrt(3) / 2.
    assert spearman([7, 7, 9], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def test_nothing_correlates_with_a_constant() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


FREQUENT, RARE, EMPTY = cell(1.24, 0.205), cell(1.5, 0.9), cell(None, None)


def content(needed: dict[str, Any], gains: dict[str, float], pairs: dict[str, int]) -> dict[str, Any]:
    """Results of one seed, in which the system gains so much over the baseline in each direction."""
    scores = {"smoe": {name: {"by_seed": [30 + gain]} for name, gain in gains.items()}}
    scores["dense"] = {name: {"by_seed": [30.0]} for name in gains}
    comparisons = [{"system": "smoe", "baseline": "dense"}]
    run = {"smoe/seed1": needed} if needed else {}
    return {
        "needed_capacity": run,
        "training_pairs": pairs,
        "seeds": [1],
        "scores": {"chrf": scores},
        "comparisons": comparisons,
    }


def test_the_tables_show_requested_beside_needed_capacity() -> None:
    needed = {
        "frequency_ranks": {"1-10": FREQUENT, "11-100": RARE},
        "directions": {"en-nso": RARE, "nso-en": FREQUENT},
        "both": {name: {"1-10": FREQUENT, "11-100": RARE} for name in ("en-nso", "nso-en")},
    }
    text = "\n".join(capacity_tables(content(needed, {}, {"en-nso": 7, "nso-en": 9})))
    assert "| en-nso | 1.50 / 0.90 |" in text
    assert "| 1-10 | 1.24 / 0.20 |" in text
    assert "| smoe/seed1 | +1.00 | -1.00 | +1.00 | +1.00 |" in text


def test_a_class_without_tokens_has_no_numbers_and_is_in_no_correlation() -> None:
    classes = {"1-10": FREQUENT, "11-100": RARE, "above 1,000": EMPTY}
    directions = {"en-nso": RARE, "nso-en": FREQUENT, "en-cat": EMPTY}
    needed = {"frequency_ranks": classes, "directions": directions, "both": {"en-nso": classes}}
    gains = {"en-nso": 1.0, "nso-en": 2.0, "en-cat": 9.0}
    text = "\n".join(capacity_tables(content(needed, gains, {"en-nso": 7, "nso-en": 9, "en-cat": 1})))
    assert "| en-cat | – |" in text
    assert "| smoe/seed1 | +1.00 | -1.00 | +1.00 | +1.00 |" in text
    assert "| smoe/seed1 over dense | -1.00 | -1.00 | +1.00 |" in text


def test_gains_are_those_of_the_seed_and_of_directions_with_both() -> None:
    needed = {"directions": {"en-nso": RARE, "nso-en": FREQUENT, "en-fur": RARE}}
    (found,) = gains_by_direction(content(needed, {"en-nso": 1.5, "nso-en": -0.5}, {}))
    assert (found.run, found.baseline, found.directions) == ("smoe/seed1", "dense", ("en-nso", "nso-en"))
    assert found.chrf == pytest.approx((1.5, -0.5))
    assert found.visits == (1.5, 1.24)


def test_without_the_data_folder_nothing_is_said_of_training_text() -> None:
    needed = {"frequency_ranks": {}, "directions": {"en-nso": RARE, "nso-en": FREQUENT}, "both": {}}
    text = "\n".join(capacity_tables(content(needed, {"en-nso": 1.0, "nso-en": 0.0}, {})))
    assert "| smoe/seed1 over dense | +1.00 | +1.00 | – |" in text


def test_without_runs_that_have_strata_there_is_nothing() -> None:
    assert capacity_tables(content({}, {}, {})) == []
