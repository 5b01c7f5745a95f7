"""Which hidden units of an FFN become one expert: groups of equal size whose units belong together.

Both of the paper's splits are the same problem, groups of equal size with the largest sum of affinities of the pairs within:

    clusters  affinity = cosine of two units' rows of W_in. Balanced k-means on rows r of length 1 minimises the squared
              distances to the groups' means, which are F - 1/f sum over groups of |sum of r|^2: the same groups are best
    graph     affinity = sum over tokens of h_u h_v, where both fire (co-activation)

The paper's code solves the first with constrained k-means, and the second with METIS and random moves to equal sizes. Here
both are solved by growing groups one unit at a time, and then exchanging pairs of units as long as an exchange gains anything;
the best of several starts counts. Deterministic for a seed.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STARTS = 3
MOST_ROUNDS = 50  # over all units; a round without a gain ends the search before
TOKENS_AT_ONCE = 4096


def random_groups(units: int, groups: int, seed: int) -> np.ndarray:
    """Units dealt out at random; int64 [groups, units / groups], each row sorted."""
    return np.sort(np.random.default_rng(seed).permutation(units).reshape(groups, -1), axis=1)


def cosines(w_in: Tensor) -> np.ndarray:
    """Cosine of each pair of rows of w_in [F, D]; float64 [F, F]."""
    rows = F.normalize(w_in.detach().double(), dim=1)
    return (rows @ rows.t()).cpu().numpy()


def co_activation(x_TD: Tensor, w_in: Tensor, b_in: Tensor) -> np.ndarray:
    """sum over tokens of h_u h_v, h = relu(W_in x + b_in), of each pair of units; float64 [F, F]."""
    total = torch.zeros(len(w_in), len(w_in), dtype=torch.float64)
    for part in x_TD.split(TOKENS_AT_ONCE):
        h_TF = F.relu(F.linear(part.to(w_in), w_in, b_in))
        total += (h_TF.t() @ h_TF).cpu()
    return total.numpy()


def balanced_groups(affinity: np.ndarray, groups: int, seed: int, starts: int = STARTS) -> np.ndarray:
    """Groups of equal size with a large affinity within; affinity [F, F], symmetric; int64 [groups, F / groups], rows sorted.

    A group's order is that of its smallest unit.
    """
    affinity = affinity.astype(np.float64)
    np.fill_diagonal(affinity, 0.0)
    rng = np.random.default_rng(seed)
    found = [exchanged(affinity, grown(affinity, groups, rng), groups) for _ in range(starts)]
    best = max(found, key=lambda group_F: within(affinity, group_F))
    rows = np.argsort(best, kind="stable").reshape(groups, -1)
    return rows[np.argsort(rows[:, 0])]


def within(affinity: np.ndarray, group_F: np.ndarray) -> float:
    """Sum of the affinities of all pairs of one group; affinity [F, F], group_F int64 [F]."""
    same = group_F[:, None] == group_F[None, :]
    return float((affinity * same).sum() - np.trace(affinity)) / 2


def grown(affinity: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
    """One group after the other, each from a random unit, always by the unit with most affinity to it; group of each, [F]."""
    units = len(affinity)
    group_F = np.full(units, -1)
    for group in range(groups):
        left = np.flatnonzero(group_F < 0)
        unit = int(rng.choice(left))
        to_group_F = np.zeros(units)
        for _ in range(units // groups - 1):
            group_F[unit] = group
            to_group_F += affinity[unit]
            unit = int(np.where(group_F < 0, to_group_F, -np.inf).argmax())
        group_F[unit] = group
    return group_F


def exchanged(affinity: np.ndarray, group_F: np.ndarray, groups: int) -> np.ndarray:
    """Exchange units of two groups as long as that gains anything; affinity with a diagonal of 0; group of each, [F]."""
    group_F = group_F.copy()
    units = np.arange(len(group_F))
    to_EF = np.stack([affinity[group_F == group].sum(axis=0) for group in range(groups)])
    least = 1e-12 * max(float(np.abs(affinity).sum()), 1e-300)  # so that rounding is no gain
    for _ in range(MOST_ROUNDS):
        gained = False
        for u in units:
            own = group_F[u]
            gain_F = to_EF[group_F, u] - to_EF[own, u] + to_EF[own] - to_EF[group_F, units] - 2 * affinity[u]
            gain_F[group_F == own] = 0.0
            v = int(gain_F.argmax())
            if gain_F[v] <= least:
                continue
            change_F = affinity[v] - affinity[u]
            to_EF[own] += change_F
            to_EF[group_F[v]] -= change_F
            group_F[u], group_F[v] = group_F[v], own
            gained = True
        if not gained:
            break
    return group_F
