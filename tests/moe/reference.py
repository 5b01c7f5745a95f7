"""The paper's equations, token by token, in plain float64: what the engine is compared with.

Nothing here sorts, batches or gathers; a slot is placed by walking over the tokens. Gradients come from autograd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.experts import Experts


@dataclass
class ReferencePass:
    y: list[Tensor]
    first: list[int]
    balance_loss: Tensor
    asked: list[int]
    served: list[int]
    first_counts: list[int]


def expert_output(experts: Experts, e: int, h: Tensor) -> Tensor:
    """W_out ReLU(W_in h + b_in) + b_out (eq. 1)."""
    hidden = torch.relu(experts.w_in[e] @ h + experts.b_in[e])
    return experts.w_out[e] @ hidden + experts.b_out[e]


def reference_pass(
    tokens: list[Tensor], gate: Tensor, experts: Experts, first_expert: int, top_k: int, capacity: int | None
) -> ReferencePass:
    """One gate over a list of token vectors (eq. 5, 6, 8-10)."""
    visible = gate.size(0)
    probs = [torch.softmax(gate @ h, dim=0) for h in tokens]
    choices: list[list[int]] = []
    for p in probs:
        ranked = sorted(range(visible), key=lambda e: (-p[e].item(), e))
        choices.append(ranked[:top_k])
    asked, served = [0] * visible, [0] * visible
    kept = [[False] * top_k for _ in tokens]
    for k in range(top_k):
        for t in range(len(tokens)):
            e = choices[t][k]
            asked[e] += 1
            if capacity is None or served[e] < capacity:
                served[e] += 1
                kept[t][k] = True
    y = []
    for t, h in enumerate(tokens):
        survivors = [choices[t][k] for k in range(top_k) if kept[t][k]]
        total = sum(probs[t][e] for e in survivors) if top_k > 1 else 1.0
        out = torch.zeros_like(h)
        for e in survivors:
            out = out + probs[t][e] / total * expert_output(experts, first_expert + e, h)
        y.append(out)
    first_counts = [sum(c[0] == e for c in choices) for e in range(visible)]
    loss = torch.zeros((), dtype=tokens[0].dtype)
    for e in range(visible):
        loss = loss + first_counts[e] / len(tokens) * torch.stack([p[e] for p in probs]).mean()
    return ReferencePass(y, [c[0] for c in choices], visible * loss, asked, served, first_counts)


@dataclass
class ReferenceBlock:
    y: Tensor
    visits: Tensor
    balance_loss: Tensor
    passes: list[ReferencePass | None]


def reference_stratified(
    x: Tensor,
    padding_mask: Tensor,
    strata: tuple[int, ...],
    gates: nn.ModuleList,
    norms: nn.ModuleList,
    experts: Experts,
    top_k: int,
    capacity_factor: float,
    training: bool,
) -> ReferenceBlock:
    """The block of section 2: x [B, S, D], padding_mask bool [B, S]."""
    places = [(b, s) for b in range(x.size(0)) for s in range(x.size(1)) if not padding_mask[b, s]]
    vectors = {place: x[place] for place in places}
    stratum = dict.fromkeys(places, 0)
    visits = torch.zeros(x.shape[:2], dtype=torch.long)
    stratum_of_expert = [i for i, size in enumerate(strata) for _ in range(size)]
    losses, passes = [], []
    for i in range(len(strata)):
        here = [place for place in places if stratum[place] == i]
        if not here:
            passes.append(None)
            continue
        first_expert = sum(strata[:i])
        visible = sum(strata) - first_expert
        normed = [F.layer_norm(vectors[p], vectors[p].shape, norms[i].weight, norms[i].bias, 1e-5) for p in here]
        capacity = math.ceil(capacity_factor * len(here) / visible) if training and capacity_factor else None
        out = reference_pass(normed, gates[i].weight, experts, first_expert, top_k, capacity)
        for place, y, first in zip(here, out.y, out.first):
            vectors[place] = y + vectors[place]
            stratum[place] = stratum_of_expert[first_expert + first] + 1
            visits[place] += 1
        losses.append(out.balance_loss)
        passes.append(out)
    y = x.clone()
    for place in places:
        y[place] = vectors[place]
    return ReferenceBlock(y, visits, sum(losses, torch.zeros((), dtype=x.dtype)) / len(strata), passes)
