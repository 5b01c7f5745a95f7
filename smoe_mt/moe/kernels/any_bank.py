"""Kernel for banks whose experts are not FFNs: expert by expert, with autograd's own backward pass.

Slower than the FFN kernels and keeps every expert's intermediate tensors, but right for whatever ``expert_output`` computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe.dispatch import Combine, Gather, Plan
from smoe_mt.moe.experts.base import ExpertBank


@dataclass(frozen=True)
class BoundBank:
    """A bank's local experts for one pass."""

    bank: ExpertBank
    dtype: torch.dtype
    dropout: float
    kernel: str = "any_bank"
    never_syncs: bool = False
    skips_empty_gates: bool = True

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] expert(x) over the served slots; [T, D]."""
        rows_SD = Gather.apply(x_TD.to(self.dtype), plan)
        parts = [
            self.bank.expert_output(first_expert + e, rows) if rows.size(0) else rows
            for e, rows in enumerate(rows_SD.split(plan.served_E.tolist()))
        ]
        out_SD = F.dropout(torch.cat(parts), self.dropout, bool(self.dropout))
        y_TD: Tensor = Combine.apply(out_SD, weights_TK, plan)
        return y_TD


def bind_any_bank(bank: ExpertBank, dtype: torch.dtype, backend: str, dropout: float) -> BoundBank:
    """The local experts of any bank.

    Raises:
        UserError: ``grouped``, which computes FFNs of one size.
    """
    if backend == "grouped":
        raise UserError(one_size_only(bank))
    return BoundBank(bank, dtype, dropout)


def one_size_only(bank: ExpertBank) -> str:
    """Why the kernel ``grouped`` refuses a bank."""
    return f"backend grouped computes FFNs of one size, and {type(bank).__name__} has others; choose auto"
