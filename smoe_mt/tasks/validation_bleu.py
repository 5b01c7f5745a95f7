"""sacreBLEU per direction during validation, from statistics that can be summed over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fairseq.logging import metrics
from sacrebleu.metrics import BLEU
from torch import Tensor

from smoe_mt.bleu_tokenizers import AUTO, tokenizer_for

ORDER = 4
STATISTICS = 2 * ORDER + 2  # matches and totals of n-grams 1..4, length of the system's output and of the references
LOG_KEY = "_bleu"


@dataclass(frozen=True)
class DirectionBleu:
    """Counts what corpus BLEU needs, apart for each of D directions; `tokenizer`: sacreBLEU's name, or auto."""

    directions: tuple[str, ...]
    tokenizer: str

    def statistics(self, directions: Sequence[int], outputs: Sequence[str], references: Sequence[str]) -> Tensor:
        """float64[D, STATISTICS] of some translations; zeros where a direction has none of them."""
        result = torch.zeros(len(self.directions), STATISTICS, dtype=torch.float64)
        for number in set(directions):
            chosen = [row for row, direction in enumerate(directions) if direction == number]
            bleu = BLEU(tokenize=self._tokenizer_of(number), force=True)
            score = bleu.corpus_score([outputs[row] for row in chosen], [[references[row] for row in chosen]])
            counts = [*score.counts, *score.totals, score.sys_len, score.ref_len]
            result[number] = torch.tensor(counts, dtype=torch.float64)
        return result

    def _tokenizer_of(self, number: int) -> str:
        target = self.directions[number].split("-")[1]
        return tokenizer_for(target) if self.tokenizer == AUTO else self.tokenizer

    def log(self, tables: Sequence[Tensor]) -> None:
        """Log `bleu`, the mean over directions, and `bleu/nso-en` of each direction that was translated."""
        table = torch.stack([torch.as_tensor(table) for table in tables]).sum(0).cpu()
        # A tensor, not an array: fairseq keeps its meters in the checkpoint, and torch's safe loading takes no numpy.
        metrics.log_scalar(LOG_KEY, table)
        metrics.log_derived("bleu", mean_score)
        for number in (table[:, -1] > 0).nonzero().flatten().tolist():
            metrics.log_derived(f"bleu/{self.directions[number]}", partial(score_of, number=number))


def score_of(meters: Any, number: int) -> float:
    """BLEU of one direction from fairseq's meters."""
    return score(meters[LOG_KEY].sum[number])


def mean_score(meters: Any) -> float:
    """Mean BLEU of the directions that were translated; 0 where none was."""
    scores = [score(row) for row in meters[LOG_KEY].sum if row[-1] > 0]
    return round(sum(scores) / len(scores), 2) if scores else 0.0


def score(statistics: Tensor) -> float:
    """Corpus BLEU (0 to 100, exponential smoothing, as sacreBLEU's default) of float64[STATISTICS]."""
    counts = [int(value) for value in statistics]
    result = BLEU.compute_bleu(
        correct=counts[:ORDER],
        total=counts[ORDER : 2 * ORDER],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method="exp",
    )
    return round(float(result.score), 2)
