"""Metrics that sacreBLEU computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score, as_it_is, needs_nothing


def sacrebleu_metric(
    name: str,
    title: str,
    meaning: str,
    scorer: Callable[[], Any],
    *,
    check: Callable[[], None] = needs_nothing,
    optional: bool = False,
    prepare: Callable[[Corpus, Sequence[str]], list[str]] = as_it_is,
    suffix: Callable[[Corpus], str] = lambda corpus: "",
) -> Metric:
    """A metric whose value and signature are those of the sacreBLEU object that `scorer` makes.

    `prepare` makes its text from ours; `suffix` is appended to the signature and says how.
    """

    def compute(corpus: Corpus) -> Score:
        metric = scorer()
        hypotheses, references = prepare(corpus, corpus.hypotheses), prepare(corpus, corpus.references)
        value = metric.corpus_score(hypotheses, [references]).score
        return Score(value, f"{metric.get_signature()}{suffix(corpus)}")

    return Metric(name, title, meaning, 1, compute, check, optional, scorer, prepare)
