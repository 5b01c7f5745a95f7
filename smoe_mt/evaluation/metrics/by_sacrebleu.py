"""Metrics that sacreBLEU computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smoe_mt.evaluation.metrics.base import Corpus, Metric, Pooling, Score, as_it_is, needs_nothing


def sacrebleu_metric(
    name: str,
    title: str,
    meaning: str,
    scorer: Callable[[Corpus], Any],
    *,
    check: Callable[[], None] = needs_nothing,
    optional: bool = False,
    prepare: Callable[[Corpus, Sequence[str]], list[str]] = as_it_is,
    suffix: Callable[[Corpus], str] = lambda corpus: "",
    pool: Callable[[Sequence[Corpus]], Pooling] | None = None,
) -> Metric:
    """A metric whose value and signature are those of the sacreBLEU object that `scorer` makes.

    `scorer` makes it for a direction's text; `prepare` makes its text from ours; `suffix` is appended to the signature and says how.
    """

    def compute(corpus: Corpus) -> Score:
        metric = scorer(corpus)
        hypotheses, references = prepare(corpus, corpus.hypotheses), prepare(corpus, corpus.references)
        value = metric.corpus_score(hypotheses, [references]).score
        return Score(value, f"{metric.get_signature()}{suffix(corpus)}")

    return Metric(name, title, meaning, 1, compute, check, optional, scorer, prepare, pool)
