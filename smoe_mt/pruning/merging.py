"""The state of a model whose experts are merged: experts and the gates' rows for them, with the same shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from smoe_mt.pruning.layout import Layout


def merged_state(
    state: Mapping[str, Tensor], layouts: Sequence[Layout], shares: Sequence[Sequence[Tensor]]
) -> dict[str, Tensor]:
    """The state with fewer experts in every block.

    `shares`: of each block and set alpha [new, old]. An expert's parameters theta and a gate's rows w become
    sum_i alpha_i theta_i and sum_i alpha_i w_i, in float64, and are stored as they were. An expert with share 1 stays bit for bit
    what it is.
    """
    merged = dict(state)
    for layout, alphas in zip(layouts, shares, strict=True):
        prefix = f"{layout.block}.block."
        for number, (name, bank) in enumerate(layout.banks.items()):
            alpha = torch.block_diag(*alphas) if layout.nested else alphas[number]
            for stack in bank.stacks():
                _merge(merged, f"{prefix}{name}.{stack}", alpha)
        for number, (name, router) in enumerate(layout.routers.items()):
            alpha = torch.block_diag(*alphas[number:]) if layout.nested else alphas[number]
            for row in router.row_names:
                _merge(merged, f"{prefix}{name}.{row}", alpha)
    return merged


def _merge(state: dict[str, Tensor], name: str, alpha: Tensor) -> None:
    state[name] = weighted_sums(alpha, state[name])


def weighted_sums(alpha: Tensor, stack: Tensor) -> Tensor:
    """alpha [R, N] times stack [N, ...]; entries with share 0 are not looked at, so that they may be anything."""
    rows = []
    for weights in alpha.to(stack.device):
        members = weights.nonzero().flatten()
        rows.append(torch.tensordot(weights[members], stack[members].double(), dims=1).to(stack.dtype))
    return torch.stack(rows)
