"""Metrics against sacreBLEU itself, or against numbers worked out by hand."""

from __future__ import annotations

import pytest
import sacrebleu

from smoe_mt.evaluation.metrics import METRICS, Corpus

SOURCES = ("Le gae?", "Ke a leboga.", "Thabo")
HYPOTHESES = ("How are you all?", "Thank you very much.", "Thabo")
REFERENCES = ("How are you?", "I thank you very much.", "Happiness")
CORPUS = Corpus("nso-en", SOURCES, HYPOTHESES, REFERENCES)


def value(name: str, corpus: Corpus = CORPUS) -> float:
    return next(metric for metric in METRICS if metric.name == name).compute(corpus).value


def test_bleu_is_sacrebleus() -> None:
    assert value("bleu") == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)


def test_chrf_is_sacrebleus_chrf_plus_plus() -> None:
    assert value("chrf") == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score)
    assert value("chrf") != pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)


def test_signatures_say_how() -> None:
    signatures = {metric.name: metric.compute(CORPUS).signature for metric in METRICS}
    assert "tok:13a" in str(signatures["bleu"]) and "version:" in str(signatures["bleu"])
    assert "nw:2" in str(signatures["chrf"])
    assert signatures["length_ratio"] is None


def test_length_ratio_counts_characters() -> None:
    assert value("length_ratio", Corpus("a-b", ("x", "y"), ("abc", ""), ("ab", "cdef"))) == pytest.approx(3 / 6)


def test_copied_is_the_share_of_unchanged_sources() -> None:
    assert value("copied") == pytest.approx(1 / 3)


def test_metric_names_differ() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_target_language() -> None:
    assert CORPUS.target_language == "en"
