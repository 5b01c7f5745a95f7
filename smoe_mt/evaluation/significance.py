"""Which of two systems is better, and where: paired bootstrap resampling (Koehn 2004) by sacreBLEU itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus, Metric
from smoe_mt.evaluation.metrics.base import Pooling
from smoe_mt.evaluation.metrics.piece_bleu import METRIC as PIECE_BLEU
from smoe_mt.evaluation.metrics.piece_bleu import fingerprint
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.progress import progress_bar

LEVEL = 0.05
RESAMPLES = 1000
POOLED = "all sentences"
# sacreBLEU holds all resamples at once: about 1 GiB for these with chrF++ and 1,000 resamples.
MOST_SENTENCES = 10_000

BETTER, WORSE, UNDECIDED, EQUAL = "better", "worse", "no difference shown", "equal"


@dataclass(frozen=True)
class Comparison:
    """A metric of one system against the baseline on a direction, or on the sentences of all directions together.

    `p_value` is sacreBLEU's; None where the scores are equal, for which its estimate means nothing. `tested`: how many of
    the `sentences` it was computed from.
    """

    system: str
    metric: str
    direction: str
    baseline_score: float
    score: float
    p_value: float | None
    sentences: int
    tested: int
    signature: str

    @property
    def delta(self) -> float:
        """How much higher the system scores."""
        return self.score - self.baseline_score

    @property
    def verdict(self) -> str:
        """A word for people: better, worse, equal, or that no difference was shown at p < 0.05."""
        if self.p_value is None:
            return EQUAL
        if self.p_value >= LEVEL:
            return UNDECIDED
        return BETTER if self.delta > 0 else WORSE

    def as_json(self) -> dict[str, Any]:
        """The entry in comparison.json."""
        return {**asdict(self), "delta": self.delta, "verdict": self.verdict}


def check_same_text(first: Sequence[Corpus], second: Sequence[Corpus], names: tuple[str, str]) -> None:
    """UserError, saying where they differ, unless both are the same sentences of the same directions."""
    one, other = ({text.direction: text for text in texts} for texts in (first, second))
    different = sorted(one.keys() ^ other.keys())
    if different:
        raise UserError(
            f"{names[0]} and {names[1]} do not translate the same directions: only one of them has {', '.join(different)}; "
            "choose common ones with --directions"
        )
    for direction, text in one.items():
        if (text.sources, text.references) != (other[direction].sources, other[direction].references):
            raise UserError(
                f"{names[0]} and {names[1]} have different sentences for {direction}; give both the same text with --data"
            )


def comparable(metrics: Sequence[Metric]) -> list[Metric]:
    """Those of the metrics that can be compared by resampling. UserError where there is none."""
    chosen = [metric for metric in metrics if metric.scorer]
    if not chosen:
        raise UserError("--compare needs a metric of sacreBLEU's, such as --metrics bleu chrf")
    return chosen


def compare(
    evaluations: Sequence[Evaluation], resamples: int = RESAMPLES, each_direction: bool = True
) -> list[Comparison]:
    """Every other system against the first one, by each metric of sacreBLEU's, on all sentences, and on each direction where
    `each_direction`.

    Raises UserError where the systems did not translate the same text, or a metric cannot compare them.
    """
    baseline, others = evaluations[0], evaluations[1:]
    for other in others:
        check_same_text(baseline.corpora, other.corpora, (baseline.name, other.name))
    metrics = comparable(baseline.metrics)
    if PIECE_BLEU in metrics and len({fingerprint(each.corpora[0].pieces) for each in evaluations}) > 1:
        raise UserError("piece_bleu compares only models with the same SentencePiece model; leave it out of --metrics")
    directions = [corpus.direction for corpus in baseline.corpora]
    tests = directions if len(directions) == 1 else [*(directions if each_direction else ()), POOLED]
    found: list[Comparison] = []
    with progress_bar(len(tests) * len(metrics), "comparing", unit="test") as bar:
        for metric in metrics:
            for direction in tests:
                found += _compare(evaluations, metric, direction, resamples)
                bar.update()
    return sorted(found, key=lambda one: [each.name for each in evaluations].index(one.system))


def _compare(evaluations: Sequence[Evaluation], metric: Metric, direction: str, resamples: int) -> Iterator[Comparison]:
    from sacrebleu.significance import PairedTest

    pooling = metric.pooled(_texts(evaluations[0], direction))
    hypotheses = [_lines(pooling, each, direction, references=False) for each in evaluations]
    references = _lines(pooling, evaluations[0], direction, references=True)
    count = len(references)
    step = -(-count // MOST_SENTENCES)
    test = PairedTest(
        [(each.name, lines[::step]) for each, lines in zip(evaluations, hypotheses)],
        {metric.name: pooling.scorer},
        [references[::step]],
        test_type="bs",
        n_samples=resamples,
    )
    signatures, table = test()
    ((title, signature),) = signatures.items()
    scores: list[Any] = table[title]
    baseline, *results = scores
    for evaluation, result in zip(evaluations[1:], results):
        yield Comparison(
            system=evaluation.name,
            metric=metric.name,
            direction=direction,
            baseline_score=float(baseline.score),
            score=float(result.score),
            p_value=None if result.score == baseline.score else float(result.p_value),
            sentences=count,
            tested=len(references[::step]),
            signature=f"{signature}{pooling.suffix}",
        )


def _texts(evaluation: Evaluation, direction: str) -> list[Corpus]:
    """A direction, or all of them in the order of their names."""
    chosen = [corpus for corpus in evaluation.corpora if direction in (corpus.direction, POOLED)]
    return sorted(chosen, key=lambda corpus: corpus.direction)


def _lines(pooling: Pooling, evaluation: Evaluation, direction: str, references: bool) -> list[str]:
    """What the metric sees of a direction, or of all of them."""
    return [
        line
        for corpus in _texts(evaluation, direction)
        for line in pooling.prepare(corpus, corpus.references if references else corpus.hypotheses)
    ]
