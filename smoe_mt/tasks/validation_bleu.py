"""sacreBLEU per direction during validation, from statistics that can be summed over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics import BLEU
from torch import Tensor

ORDER = 4
STATISTICS = 2 * ORDER + 2  # matches and totals of n-grams 1..4, length of the system's output and of the references
LOG_KEY = "_bleu"


@dataclass(frozen=True)
class DirectionBleu:
    """Counts what corpus BLEU needs, apart for each of D directions."""

    directions: tuple[str, ...]
    tokenizer: str

    def statistics(self, directions: Sequence[int], outputs: Sequence[str], references: Sequence[str]) -> Tensor:
        """float64[D, STATISTICS] of some translations; zeros where a direction has none of them."""
        result = np.zeros((len(self.directions), STATISTICS))
        bleu = BLEU(tokenize=self.tokenizer, force=True)
        for number in set(directions):
            chosen = [row for row, direction in enumerate(directions) if direction == number]
            score = bleu.corpus_score([outputs[row] for row in chosen], [[references[row] for row in chosen]])
            result[number] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
        return torch.from_numpy(result)

    def scores(self, statistics: Any) -> dict[str, float]:
        """BLEU of each direction that has statistics (float64[D, STATISTICS])."""
        table = np.asarray(statistics)
        return {name: score(row) for name, row in zip(self.directions, table) if row[-1] > 0}


def score(row: np.ndarray) -> float:
    """Corpus BLEU (0 to 100, exponential smoothing, as sacreBLEU's default) of one direction's summed statistics."""
    counts = [int(value) for value in row]
    result = BLEU.compute_bleu(
        correct=counts[:ORDER],
        total=counts[ORDER : 2 * ORDER],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method="exp",
    )
    return round(float(result.score), 2)
