"""Expert output masking (EOM; paper: section 4): in training an expert's output for a token is left out now and then."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExpertOutputMask(nn.Module):
    """Masks (token, expert) slots by their combine weights, which come in fixed: nothing is renormalised.

    In training each slot is masked with probability ``p``, without rescaling; evaluation multiplies all by 1 - p.
    A slot's weight scales its output, so this masks outputs. ``p`` = 0 does nothing.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"eom_p, the probability of masking an expert's output, must be in [0, 1), not {p}")
        self.p = p

    def forward(self, weights_TK: Tensor) -> Tensor:
        """weights_TK float [T, K], 0 where the slot was dropped; returns the same shape."""
        if not self.p:
            return weights_TK
        return weights_TK * self.draw(weights_TK) if self.training else weights_TK * (1 - self.p)

    def draw(self, weights_TK: Tensor) -> Tensor:
        """Which slots stay: 1 with probability 1 - p, else 0; float [T, K]."""
        return (torch.rand_like(weights_TK) >= self.p).to(weights_TK.dtype)
