"""Which experts become one, and with which shares.

Experts are numbered from 0 within the set that may be merged; groups are ordered by their first member, which numbers the
experts that remain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Members of each group, ascending. Experts of no group are dropped.
Groups = tuple[tuple[int, ...], ...]


def partition(similarity: Tensor, parts: int) -> Groups:
    """Agglomerative clustering with average linkage, down to `parts` groups.

    Every expert begins as a group; the two groups whose members have the highest mean similarity to each other become one,
    until `parts` are left. Of equal pairs the one with the lowest numbers comes first.
    """
    groups = [[e] for e in range(similarity.size(0))]
    while len(groups) > parts:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        i, j = max(pairs, key=lambda pair: float(similarity[groups[pair[0]]][:, groups[pair[1]]].mean()))
        groups[i] += groups.pop(j)
    return _ordered(groups)


def random_partition(experts: int, parts: int, generator: torch.Generator) -> Groups:
    """Groups of equal sizes, or of two sizes that differ by one."""
    order = torch.randperm(experts, generator=generator).tolist()
    return _ordered([order[start::parts] for start in range(parts)])


def most_used(counts: Tensor, parts: int) -> Groups:
    """The `parts` experts with the highest counts, each alone; of equal ones the lowest numbers."""
    order = counts.double().sort(descending=True, stable=True).indices.tolist()
    return _ordered([[e] for e in order[:parts]])


def shares(groups: Groups, counts: Tensor, merge: str) -> Tensor:
    """What each old expert contributes to each new one: alpha [groups, experts], float64; rows sum to 1.

    merge   "mean": all members alike; "weighted": by their counts; "keep": the member with the highest count alone
    counts  [experts]; where all members have 0, "weighted" is "mean" and "keep" takes the first
    """
    alpha = torch.zeros(len(groups), counts.numel(), dtype=torch.double)
    for row, members in enumerate(groups):
        used = counts.double()[list(members)]
        if merge == "keep":
            alpha[row, members[int(used.argmax())]] = 1.0
        elif merge == "weighted" and used.sum() > 0:
            alpha[row, list(members)] = used / used.sum()
        else:
            alpha[row, list(members)] = 1.0 / len(members)
    return alpha


def _ordered(groups: Sequence[Sequence[int]]) -> Groups:
    return tuple(sorted(tuple(sorted(group)) for group in groups))
