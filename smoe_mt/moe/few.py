"""A gate and its experts for a few tokens on a CPU, in evaluation: each step of a search of one sentence.

There an operator on a tensor of ten numbers costs as much as one on ten thousand, and planning a dispatch takes thirty of them. So
the gate's probabilities are read back, and Python decides where tokens go.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.moe.experts.base import BoundExperts
from smoe_mt.moe.kernels.select import BoundFFNs
from smoe_mt.moe.routers.base import Choices, Router, Selection, Weighting
from smoe_mt.moe.routers.top_k import TopK

FEW_TOKENS = (
    50  # up to which it is faster than planning with tensors: 0.6 of the time at 5 tokens, 0.9 at 50 (one thread)
)
TINY = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class FewSlots:
    """Which experts a few tokens are sent to: the choices, and of each slot in the order of the experts its token and weight."""

    choices: Choices
    tokens: list[int]
    weights: list[float]
    counts: dict[int, int]


def takes_few(tokens: int, experts: BoundExperts) -> bool:
    """Whether so few tokens go to experts of this kind that Python may decide where."""
    return tokens <= FEW_TOKENS and isinstance(experts, BoundFFNs) and experts.packed is not None


def few_slots(probs_TE: Tensor, router: Router, selection: Selection, weighting: Weighting, scale: float) -> FewSlots:
    """The slots of a few tokens; ``scale``: of all weights."""
    if _ranks_alone(router, selection, weighting):
        chosen, weights = _top_k(probs_TE.tolist(), selection.k, weighting)  # type: ignore[attr-defined]
        experts_TK = torch.tensor(chosen)
        choices = Choices(experts_TK, experts_TK[:, 0])
    else:
        choices = router.choose(probs_TE, selection, True)
        kept_TK = None if choices.complete else choices.experts_TK < router.num_experts
        chosen = choices.experts_TK.tolist()
        weights = router.combine(probs_TE, choices, kept_TK, weighting).tolist()
    slots: dict[int, list[tuple[int, float]]] = {}
    for token, (experts, shares) in enumerate(zip(chosen, weights)):
        for expert, share in zip(experts, shares):
            if expert < router.num_experts:
                slots.setdefault(expert, []).append((token, scale * share))
    return FewSlots(
        choices,
        [token for slot in slots.values() for token, _ in slot],
        [weight for slot in slots.values() for _, weight in slot],
        {expert: len(slot) for expert, slot in slots.items()},
    )


def compute_few(x_TD: Tensor, slots: FewSlots, experts: BoundExperts, first_expert: int) -> Tensor:
    """y = sum_e G_e FFN_e(x) of a few tokens; [T, D]."""
    assert isinstance(experts, BoundFFNs)
    y_TD = torch.zeros_like(x_TD, dtype=torch.float32)
    if slots.tokens:
        token_S = torch.tensor(slots.tokens)
        rows = x_TD.to(experts.weights[0].dtype).index_select(0, token_S).split(list(slots.counts.values()))
        products = (experts.products(first_expert + e) for e in slots.counts)
        act = experts.bank.activation
        out_SD = torch.cat([second(first(x, act)) for (first, second), x in zip(products, rows)])
        y_TD.index_add_(0, token_S, torch.mul(out_SD, torch.tensor(slots.weights)[:, None]))
    return y_TD.to(x_TD.dtype)


def _ranks_alone(router: Router, selection: Selection, weighting: Weighting) -> bool:
    """Whether the k largest probabilities are all that matters, and how large they are."""
    own = type(router)
    return (
        isinstance(selection, TopK)
        and selection.second_choice == "argmax"
        and weighting in (Weighting.RAW, Weighting.RENORMALISED)
        and router.selection_bias is None
        and own.choose is Router.choose
        and own.combine is Router.combine
    )


def _top_k(probs: list[list[float]], k: int, weighting: Weighting) -> tuple[list[list[int]], list[list[float]]]:
    """The k best experts of each token, ties to the lowest number, and their weights (``combine_weights``)."""
    chosen = [sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k] for row in probs]
    weights = [[row[e] for e in experts] for row, experts in zip(probs, chosen)]
    if weighting is Weighting.RAW:
        return chosen, weights
    return chosen, [[share / max(sum(shares), TINY) for share in shares] for shares in weights]
