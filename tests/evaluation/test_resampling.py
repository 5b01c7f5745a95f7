"""Comparison over seeds and sentences."""

from __future__ import annotations

import numpy as np
import pytest

from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.evaluation.metrics.bleu import METRIC as BLEU
from smoe_mt.evaluation.metrics.chrf import METRIC as CHRF
from smoe_mt.evaluation.resampling import difference, holm, sample_sentences, t_interval

LINES = (
    "open the file in a new window",
    "the help pages are not there",
    "a name of the printer",
    "close all of it now",
)
WORSE = ("open a file in a window", "the help page is there", "name of printer", "close it now")


def corpus(hypotheses: tuple[str, ...]) -> dict[str, Corpus]:
    return {"aa-en": Corpus("aa-en", LINES, hypotheses, LINES)}


@pytest.mark.parametrize("metric", [CHRF, BLEU], ids=lambda metric: metric.name)
def test_scores_are_sacrebleus(metric) -> None:  # type: ignore[no-untyped-def]
    found = sample_sentences([corpus(LINES), corpus(WORSE)], metric, resamples=20)
    for row, text in enumerate((LINES, WORSE)):
        one = metric.compute(corpus(text)["aa-en"])
        assert found.scores[row, 0] == pytest.approx(one.value)


def test_runs_are_scored_on_the_same_sentences() -> None:
    found = sample_sentences([corpus(WORSE), corpus(WORSE)], CHRF, resamples=20)
    assert np.array_equal(found.samples[0], found.samples[1]) and found.samples[0].std() > 0


def test_a_difference_of_all_seeds_and_sentences_has_a_small_p() -> None:
    found = difference(np.array([1.0, 1.2, 0.9]), 1 + 0.1 * np.random.default_rng(0).standard_normal((3, 1000)))
    assert 0 < found.low < found.mean < found.high and found.p < 0.01 and found.t_low is not None and found.t_low > 0


def test_seeds_that_disagree_widen_the_interval() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 1000))
    found = difference(np.array([2.0, -2.0, 1.0]), np.array([2.0, -2.0, 1.0])[:, None] + noise)
    assert found.low < 0 < found.high and found.p > 0.05 and found.p_by_seed[0] < 0.01


def test_a_t_interval_is_students() -> None:
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert t_interval(np.array([1.0])) == (None, None)


def test_holms_correction_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
