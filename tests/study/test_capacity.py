"""Requested against needed capacity in a study's results."""

from __future__ import annotations

import math

import pytest

from smoe_mt.study.capacity import capacity_tables, spearman


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


def test_the_tables_show_requested_beside_needed_capacity() -> None:
    frequent, rare = cell(1.24, 0.205), cell(1.5, 0.9)
    needed = {
        "smoe/seed1": {
            "frequency_ranks": {"1-10": frequent, "11-100": rare},
            "directions": {"en-nso": rare, "nso-en": frequent},
            "both": {name: {"1-10": frequent, "11-100": rare} for name in ("en-nso", "nso-en")},
        }
    }
    text = "\n".join(capacity_tables(needed))
    assert "| smoe/seed1, visits | 1.24 | 1.50 |" in text
    assert "| smoe/seed1, lost at one visit | 0.20 | 0.90 |" in text
    assert "| smoe/seed1 | +1.00 | +1.00 | +1.00 |" in text


def test_a_class_without_tokens_has_no_numbers_and_is_in_no_correlation() -> None:
    frequent, rare, empty = cell(1.24, 0.205), cell(1.5, 0.9), cell(None, None)
    classes = {"1-10": frequent, "11-100": rare, "above 1,000": empty}
    directions = {"en-nso": rare, "nso-en": frequent, "en-cat": empty}
    needed = {"smoe/seed1": {"frequency_ranks": classes, "directions": directions, "both": {"en-nso": classes}}}
    text = "\n".join(capacity_tables(needed))
    assert "| smoe/seed1, visits | 1.24 | 1.50 | – |" in text
    assert "| smoe/seed1, lost at one visit | 0.20 | 0.90 | – |" in text
    assert "| smoe/seed1 | +1.00 | +1.00 | +1.00 |" in text


def test_without_runs_that_have_strata_there_is_nothing() -> None:
    assert capacity_tables({}) == []
