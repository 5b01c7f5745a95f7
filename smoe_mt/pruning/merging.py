"""The state of a model whose experts are merged: experts and the gates' rows for them, with the same shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from smoe_mt.pruning.groups import Groups
from smoe_mt.pruning.layout import Layout

#: Of each block, of each set of its experts.
BySet = Sequence[Sequence[Tensor]]


def merged_state(state: Mapping[str, Tensor], layouts: Sequence[Layout], shares: BySet) -> dict[str, Tensor]:
    """The state with fewer experts in every block.

    `shares`: alpha [new, old]. An expert's parameters theta and a gate's rows w become sum_i alpha_i theta_i and
    sum_i alpha_i w_i, in float64, and are stored in the precision that they had. An expert with share 1 stays bit for bit what
    it is.
    """
    merged = dict(state)
    for layout, alphas in zip(layouts, shares, strict=True):
        prefix = f"{layout.block}.block."
        for number, (name, bank) in enumerate(layout.banks.items()):
            alpha = torch.block_diag(*alphas) if layout.nested else alphas[number]
            for stack in bank.stacks():
                key = f"{prefix}{name}.{stack}"
                merged[key] = weighted_sums(alpha, state[key])
        for number, (name, router) in enumerate(layout.routers.items()):
            alpha = torch.block_diag(*_seen(layout, number, alphas))
            for row in router.row_names:
                key = f"{prefix}{name}.{row}"
                merged[key] = weighted_sums(alpha, state[key])
    return merged


def group_biases(
    state: Mapping[str, Tensor], layouts: Sequence[Layout], groups: Sequence[Sequence[Groups]]
) -> dict[str, Tensor]:
    """Biases of softmax gates, by name, with which a merged expert has the probability of its members together if they are alike:
    log sum_i exp(b_i) over the members, the log of their number where gates had no biases before."""
    biases = {}
    for layout, members in zip(layouts, groups, strict=True):
        together = [membership(each, size) for each, size in zip(members, layout.sizes, strict=True)]
        for number, name in enumerate(layout.routers):
            key = f"{layout.block}.block.{name}."
            seen = torch.block_diag(*_seen(layout, number, together))
            before = state.get(f"{key}bias", torch.zeros(seen.size(1)))
            biases[f"{key}bias"] = (seen @ before.double().cpu().exp()).log().to(state[f"{key}weight"].dtype)
    return biases


def membership(groups: Groups, experts: int) -> Tensor:
    """1 where an expert is a member of a group, else 0; float64 [groups, experts]."""
    found = torch.zeros(len(groups), experts, dtype=torch.double)
    for row, members in enumerate(groups):
        found[row, list(members)] = 1.0
    return found


def _seen(layout: Layout, gate: int, of_sets: Sequence[Tensor]) -> Sequence[Tensor]:
    """What a gate sees of what all sets have."""
    return of_sets[gate:] if layout.nested else of_sets[gate : gate + 1]


def weighted_sums(alpha: Tensor, stack: Tensor) -> Tensor:
    """alpha [R, N] times stack [N, ...]; entries with share 0 are not looked at, so that they may be anything."""
    rows = []
    for weights in alpha.to(stack.device):
        members = weights.nonzero().flatten()
        rows.append(torch.tensordot(weights[members], stack[members].double(), dims=1).to(stack.dtype))
    return torch.stack(rows)
