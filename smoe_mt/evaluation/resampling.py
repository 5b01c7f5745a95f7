"""Systems of several seeds compared over seeds and sentences: means, intervals and p-values by a bootstrap of both.

`significance.py` compares two runs, by sacreBLEU's paired bootstrap over sentences: it says how sure a difference is for other
text, not for other seeds. Here each resample draws sentences of each direction, the same for all runs, and seeds, the same
for both systems of a difference. With n seeds the spread of a bootstrap over seeds is too small by sqrt((n - 1) / n), and with three
it has ten different draws: `t_interval` over the differences of the seeds stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smoe_mt.evaluation.metrics import Corpus, Metric
from smoe_mt.progress import progress_bar

RESAMPLES = 1000
LEVEL = 0.05
#: 97.5% quantiles of Student's t, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Sampled:
    """A metric of several runs: `scores` float [runs, directions], `samples` [runs, directions, resamples] over sentences."""

    directions: tuple[str, ...]
    scores: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class Difference:
    """System less baseline, mean over seeds and directions.

    low, high  95% interval over seeds and sentences; `p` two-sided, of the same resamples
    by_seed    the difference of each seed; `t_low`, `t_high`: 95% t interval over them, None of one seed
    p_by_seed  of each seed over sentences alone
    """

    mean: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]
    t_low: float | None
    t_high: float | None
    p_by_seed: tuple[float, ...]


def sample_sentences(
    runs: Sequence[Mapping[str, Corpus]], metric: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> Sampled:
    """Score all runs, which translate the same text (``significance.check_same_text``), on the same resamples of its sentences."""
    directions = tuple(runs[0])
    scores = np.zeros((len(runs), len(directions)))
    samples = np.zeros((len(runs), len(directions), resamples))
    rng = np.random.default_rng(seed)
    with progress_bar(len(directions), f"{metric.title}: resampling", unit="direction") as bar:
        for column, direction in enumerate(directions):
            count = len(runs[0][direction].references)
            drawn_RN = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
            for row, run in enumerate(runs):
                scores[row, column], samples[row, column] = _sample(run[direction], metric, drawn_RN)
            bar.update()
    return Sampled(directions, scores, samples)


def _sample(corpus: Corpus, metric: Metric, drawn_RN: np.ndarray) -> tuple[float, list[float]]:
    """The score of a direction, and those of its resamples; drawn_RN: how often each takes each sentence."""
    pooling = metric.pooled([corpus])
    lines, references = (pooling.prepare(corpus, text) for text in (corpus.hypotheses, corpus.references))
    # What sacreBLEU's own significance test builds on: counts of each sentence, which add up to those of a corpus.
    counts_NS = np.array(pooling.scorer._extract_corpus_statistics(lines, [references]), dtype=np.float64)
    return _score(pooling.scorer, counts_NS.sum(0)), [_score(pooling.scorer, sums) for sums in drawn_RN @ counts_NS]


def _score(scorer: object, sums: np.ndarray) -> float:
    return float(scorer._compute_score_from_stats([round(value) for value in sums]).score)  # type: ignore[attr-defined]


def draw_seeds(seeds: int, resamples: int = RESAMPLES, seed: int = 1) -> np.ndarray:
    """Which seeds each resample takes; int [resamples, seeds]."""
    return np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))


def interval(values_R: np.ndarray) -> tuple[float, float]:
    """The middle 95% of resamples."""
    low, high = np.quantile(values_R, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def over_seeds(values_SR: np.ndarray) -> np.ndarray:
    """Of values by seed and resample of sentences [S, R]: mean over seeds that are drawn anew in each resample; [R]."""
    drawn_RS = draw_seeds(values_SR.shape[0], values_SR.shape[1])
    return values_SR[drawn_RS.T, np.arange(values_SR.shape[1])].mean(0)


def difference(by_seed_S: np.ndarray, samples_SR: np.ndarray) -> Difference:
    """by_seed_S: system less baseline of each seed; samples_SR: the same on resamples of sentences."""
    both_R = over_seeds(samples_SR)
    mean = float(by_seed_S.mean())
    t_low, t_high = t_interval(by_seed_S)
    return Difference(
        *(mean, *interval(both_R), two_sided(both_R)),
        *(tuple(map(float, by_seed_S)), t_low, t_high, tuple(two_sided(row) for row in samples_SR)),
    )


def t_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """95% by Student's t; None of one value."""
    if len(values) < 2:
        return None, None
    half = T.get(len(values) - 1, 1.96) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def two_sided(values_R: np.ndarray) -> float:
    """How often resamples fall on the other side of 0, twice; at least 2 / (R + 1)."""
    less = min(int((values_R <= 0).sum()), int((values_R >= 0).sum()))
    return min(1.0, 2 * (less + 1) / (len(values_R) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979)."""
    order = np.argsort(p_values)
    corrected, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = most
    return corrected
