"""What a study concludes from the scores of its runs."""

from __future__ import annotations

import numpy as np
import pytest

from smoe_mt.evaluation.resampling import Sampled
from smoe_mt.study.plan import Plan, read_plan
from smoe_mt.study.results import as_markdown, results

DIRECTIONS = ("en-nso", "nso-en", "en-cat", "cat-en")


def sampled(plan: Plan, gain: float) -> dict[str, Sampled]:
    """Three seeds of each system, each system `gain` better than the one before, with small differences between seeds."""
    rng = np.random.default_rng(0)
    runs = len(plan.systems) * 3
    mean = (
        np.repeat(np.arange(len(plan.systems)) * gain, 3)[:, None]
        + np.tile([0.0, 0.1, 0.2], len(plan.systems))[:, None]
    )
    scores = np.broadcast_to(30 + mean, (runs, len(DIRECTIONS))).copy()
    samples = scores[:, :, None] + 0.05 * rng.standard_normal((1, len(DIRECTIONS), 200))
    return {name: Sampled(DIRECTIONS, scores, samples) for name in ("chrf", "bleu")}


def concluded(plan: Plan, gain: float) -> dict[str, object]:
    return results(plan, (1, 2, 3), sampled(plan, gain), read_plan("claim").tests)


def test_a_difference_is_that_of_the_means() -> None:
    content = concluded(read_plan("claim"), 0.5)
    differences = [one["differences"]["chrf"]["all"]["mean"] for one in content["comparisons"]]  # type: ignore[attr-defined]
    # vanilla - dense, smoe_2_2_2_2 - vanilla, smoe_4_4 - vanilla, smoe_2_2_2_2 - dense_wide: places 2 - 0, 4 - 2, 3 - 2, 4 - 1
    assert differences == pytest.approx([1.0, 1.0, 0.5, 1.5])


def test_systems_without_scores_are_left_out_and_their_tests_still_count() -> None:
    plan = read_plan("claim").of_systems({"dense", "dense_wide", "vanilla", "smoe_4_4"})
    content = concluded(plan, 0.0)
    assert [one["question"] for one in content["comparisons"]] == ["H1", "H3"]  # type: ignore[attr-defined]
    assert plan.gap is None and "gap" not in content
    assert read_plan("claim").questions - plan.questions == {"H2", "H4", "H5"}
    assert all(one["p_corrected"] == 1.0 for one in content["comparisons"])  # type: ignore[attr-defined]


def test_the_page_names_what_is_missing_or_unfinished() -> None:
    plan = read_plan("claim").of_systems({"dense", "vanilla"})
    content = concluded(plan, 1.0)
    content |= {"left_out": ["smoe_4_4/seed1"], "not_tested": ["H3"], "unfinished": {"vanilla/seed2": 3992}}
    content["seeds_left_out"] = [4, 5]
    text = as_markdown(plan, content | {"needed_capacity": {}})
    assert "Planned and not run: seeds 4, 5.\nWithout scores: smoe_4_4/seed1.\nNot tested: H3." in text
    assert "Stopped before the last update: vanilla/seed2 (3,992 updates)." in text
