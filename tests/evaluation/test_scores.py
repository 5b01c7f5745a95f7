"""Means over directions and the copy baseline."""

from __future__ import annotations

import pytest

from smoe_mt.evaluation.metrics import DEFAULT_METRICS, Corpus
from smoe_mt.evaluation.scores import DirectionScores, as_json, class_means, copy_baseline, means, score


def flat(value: float) -> DirectionScores:
    return DirectionScores({metric.name: value for metric in DEFAULT_METRICS}, {"bleu": "sig"}, 7)


def test_means_are_unweighted_and_by_side_of_english() -> None:
    found = means({"nso-en": flat(10), "en-nso": flat(40), "cat-en": flat(20), "nso-cat": flat(2)})
    assert found["mean"] is not None and found["mean"]["chrf"] == pytest.approx(18)
    assert found["mean_to_en"] is not None and found["mean_to_en"]["bleu"] == pytest.approx(15)
    assert found["mean_from_en"] is not None and found["mean_from_en"]["bleu"] == pytest.approx(40)


def test_a_group_without_directions_has_no_mean() -> None:
    assert means({"nso-cat": flat(2)})["mean_to_en"] is None


def test_a_mean_is_over_the_directions_that_have_a_value() -> None:
    rates = {"nso-en": 0.5, "en-nso": None, "cat-en": 0.1}
    found = means({direction: DirectionScores({"off_target": rate}, {}, 7) for direction, rate in rates.items()})
    assert found["mean"] == {"off_target": pytest.approx(0.3)}
    assert found["mean_from_en"] == {"off_target": None}


def test_entry_of_a_direction() -> None:
    entry = as_json({"nso-en": flat(3)})["directions"]["nso-en"]
    assert entry["bleu"] == 3 and entry["signatures"] == {"bleu": "sig"} and entry["sentences"] == 7


def test_copy_baseline_scores_the_source() -> None:
    corpus = Corpus("cat-en", ("Firefox obert", "b c d e"), ("Firefox open", "x"), ("Firefox obert", "b c d f"))
    copied = score(copy_baseline(corpus))
    assert copied.values["copied"] == 1
    assert copied.values["chrf"] > score(corpus).values["chrf"]


def test_means_by_resource_class_are_unweighted() -> None:
    found = class_means({"en-ind": flat(10), "en-slv": flat(40), "slv-en": flat(1), "en-lim": flat(3)}, "m15")
    assert list(found) == ["high", "low", "very low"]
    high = found["high"]["mean_from_en"]
    assert high is not None and high["bleu"] == pytest.approx(25)
    assert found["low"]["mean"] is None
    assert found["very low"]["mean_to_en"] is None and found["very low"]["mean"] is not None


def test_text_of_no_benchmark_has_no_classes() -> None:
    assert class_means({"nso-en": flat(3)}, None) == {} == class_means({"nso-en": flat(3)}, "m4")
