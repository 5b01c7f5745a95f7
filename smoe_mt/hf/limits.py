"""Each sentence's own longest output in transformers' search, as in ours."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LogitsProcessor


class OwnLimit(LogitsProcessor):
    """Ends every row that has as many tokens as its sentence may have.

    limits_B  int64 [B], the longest output of each sentence, its end not counted; rows are grouped by sentence
    """

    def __init__(self, limits_B: Tensor, eos: int) -> None:
        self.limits_B = limits_B
        self.eos = eos

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids [rows, tokens so far, start included], scores [rows, V]: -inf but for the end where a row is full."""
        rows_of_each = len(input_ids) // len(self.limits_B)
        limits = self.limits_B.to(scores.device).repeat_interleave(rows_of_each)
        full = limits <= input_ids.size(1) - 1
        ended = scores.masked_fill(full[:, None], -math.inf)
        ended[:, self.eos] = scores[:, self.eos]
        return ended  # type: ignore[return-value]
