"""The paper's equations, token by token, in plain float64: what the engine is compared with.

Nothing here sorts, batches or gathers; a slot is placed by walking over the tokens. Gradients come from autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class ReferencePass:
    y: list[Tensor]
    first: list[int]
    balance_loss: Tensor
    asked: list[int]
    served: list[int]
    first_counts: list[int]


def expert_output(experts: Any, e: int, h: Tensor) -> Tensor:
    """W_out ReLU(W_in h + b_in) + b_out (eq. 1)."""
    w_in, b_in, w_out, b_out = experts.weights(h.dtype)
    y: Tensor = w_out[e] @ torch.relu(w_in[e] @ h + b_in[e]) + b_out[e]
    return y


def reference_pass(
    tokens: list[Tensor],
    gate: Tensor,
    experts: Any,
    first_expert: int,
    top_k: int,
    capacity: int | None,
    scale: Callable[[int, int], float] = lambda t, k: 1.0,
) -> ReferencePass:
    """One gate over a list of token vectors (eq. 5, 6, 8-10); ``scale(t, k)`` multiplies the output of a slot (EOM)."""
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
        survivors = [(k, choices[t][k]) for k in range(top_k) if kept[t][k]]
        total = sum(probs[t][e] for _, e in survivors) if top_k > 1 else 1.0
        out = torch.zeros_like(h)
        for k, e in survivors:
            out = out + probs[t][e] / total * expert_output(experts, first_expert + e, h) * scale(t, k)
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
    gates: Any,
    norms: Any,
    experts: Any,
    top_k: int,
    capacity_factor: float,
    training: bool,
    scale: Callable[[int, int], float] = lambda t, k: 1.0,
) -> ReferenceBlock:
    """The block of section 2: x [B, S, D], padding_mask bool [B, S]; ``scale`` as in ``reference_pass``, at every visit."""
    places = [(b, s) for b in range(x.size(0)) for s in range(x.size(1)) if not padding_mask[b, s]]
    vectors = {place: x[place] for place in places}
    stratum = dict.fromkeys(places, 0)
    visits = torch.zeros(x.shape[:2], dtype=torch.long)
    stratum_of_expert = [i for i, size in enumerate(strata) for _ in range(size)]
    losses: list[Tensor] = []
    passes: list[ReferencePass | None] = []
    for i in range(len(strata)):
        here = [place for place in places if stratum[place] == i]
        if not here:
            passes.append(None)
            continue
        first_expert = sum(strata[:i])
        visible = sum(strata) - first_expert
        normed = [F.layer_norm(vectors[p], vectors[p].shape, norms[i].weight, norms[i].bias, 1e-5) for p in here]
        capacity = math.ceil(capacity_factor * len(here) / visible) if training and capacity_factor else None
        out = reference_pass(normed, gates[i].weight, experts, first_expert, top_k, capacity, scale)
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


@dataclass
class ReferenceLayer:
    y: Tensor
    balance_loss: Tensor
    gate_sum: Tensor
    passes: list[ReferencePass]


def reference_layers(
    x: Tensor, padding_mask: Tensor, layers: list[Any], scale: Callable[[int, int], float] = lambda t, k: 1.0
) -> ReferenceLayer:
    """Plain layers in sequence (Stacking; one layer: MoE), 0 at padding: x [B, S, D], padding_mask bool [B, S]."""
    real = ~padding_mask
    tokens, passes = list(x[real]), []
    for layer in layers:
        s, visible = layer.settings, layer.gate.num_experts
        limited = layer.training and s.capacity_factor
        capacity = math.ceil(s.capacity_factor * len(tokens) / visible) if limited else None
        out = reference_pass(tokens, layer.gate.weight, layer.experts, 0, layer.gate.selection.k, capacity, scale)
        tokens = out.y
        passes.append(out)
    y = torch.zeros_like(x)
    y[real] = torch.stack(tokens)
    balance = torch.stack([out.balance_loss for out in passes]).mean()
    return ReferenceLayer(y, balance, torch.zeros((), dtype=x.dtype), passes)


def reference_conditional(x: Tensor, padding_mask: Tensor, block: Any) -> ReferenceLayer:
    """y = (1 - g) FFN(x) + g MoE(x), without dropout on g; 0 at padding."""
    experts = reference_layers(x, padding_mask, [block.moe])
    y, total = torch.zeros_like(x), torch.zeros((), dtype=x.dtype)
    for b, s in (~padding_mask).nonzero().tolist():
        h = x[b, s]
        g = 1 / (1 + torch.exp(-(block.mix.weight[0] @ h + block.mix.bias[0])))
        shared = block.fc2.weight @ torch.relu(block.fc1.weight @ h + block.fc1.bias) + block.fc2.bias
        y[b, s] = (1 - g) * shared + g * experts.y[b, s]
        total = total + g
    return ReferenceLayer(y, experts.balance_loss, total, experts.passes)
