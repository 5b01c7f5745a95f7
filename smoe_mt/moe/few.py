"""A gate and its experts for a few tokens on a CPU, in evaluation: each step of a search of one sentence.

There an operator on a tensor of ten numbers costs as much as one on ten thousand, and planning a dispatch takes thirty of them. So
the gate's probabilities are read back, and Python decides where tokens go.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from smoe_mt.moe.experts.base import BoundExperts
from smoe_mt.moe.kernels.select import BoundFFNs
from smoe_mt.moe.routers.base import Router, Selection, Weighting
from smoe_mt.moe.routers.top_k import TopK

FEW_TOKENS = (
    50  # up to which it is faster than planning with tensors: 0.6 of the time at 5 tokens, 0.9 at 50 (one thread)
)
TINY = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class FewSlots:
    """Where a few tokens are sent to, with rows sorted by expert as in a ``Plan``.

    expert_TK  of each slot; the number of experts for no choice
    lead_T     the expert that leads each token
    token_S    of each row its token
    row_TK     of each slot its row; the number of rows for one without a choice
    weight_TK  of each slot
    counts     rows of each expert that has any, in the order of the rows
    """

    expert_TK: list[list[int]]
    lead_T: list[int]
    token_S: list[int]
    row_TK: list[list[int]]
    weight_TK: list[list[float]]
    counts: dict[int, int]

    @property
    def complete(self) -> bool:
        """Whether every slot has a choice."""
        return len(self.token_S) == sum(map(len, self.row_TK))


def takes_few(tokens: int, experts: BoundExperts) -> bool:
    """Whether so few tokens go to experts of this kind that Python may decide where."""
    return tokens <= FEW_TOKENS and isinstance(experts, BoundFFNs) and experts.packed is not None


def few_slots(probs_TE: Tensor, router: Router, selection: Selection, weighting: Weighting, scale: float) -> FewSlots:
    """The slots of a few tokens; ``scale``: of all weights."""
    if _ranks_alone(router, selection, weighting):
        chosen, weights = _top_k(probs_TE.tolist(), selection.k, weighting)  # type: ignore[attr-defined]
        leads = [experts[0] for experts in chosen]
    else:
        choices = router.choose(probs_TE, selection, True)
        kept_TK = None if choices.complete else choices.experts_TK < router.num_experts
        chosen, leads = choices.experts_TK.tolist(), choices.lead_T.tolist()
        weights = router.combine(probs_TE, choices, kept_TK, weighting).tolist()
    token_S, row_TK, counts = _sorted_by_expert(chosen, router.num_experts)
    if scale != 1:
        weights = [[scale * share for share in shares] for shares in weights]
    return FewSlots(chosen, leads, token_S, row_TK, weights, counts)


def compute_few(x_TD: Tensor, slots: FewSlots, experts: BoundExperts, first_expert: int) -> Tensor:
    """y = sum_e G_e FFN_e(x) of a few tokens; [T, D]."""
    assert isinstance(experts, BoundFFNs)
    if not slots.token_S:
        return torch.zeros_like(x_TD)
    rows, (tokens, top_k) = len(slots.token_S), (len(slots.row_TK), len(slots.row_TK[0]))
    places = torch.tensor(slots.token_S + [row for of_token in slots.row_TK for row in of_token])
    token_S, row_N = places.split([rows, tokens * top_k])
    parts = x_TD.to(experts.weights[0].dtype).index_select(0, token_S).split(list(slots.counts.values()))
    products = (experts.products(first_expert + e) for e in slots.counts)
    act = experts.bank.activation
    outputs = [second(first(x, act)) for (first, second), x in zip(products, parts)]
    if not slots.complete:
        outputs.append(x_TD.new_zeros(1, x_TD.size(1), dtype=outputs[0].dtype))  # of slots without a choice
    out_TKD = torch.cat(outputs).index_select(0, row_N).view(tokens, top_k, -1)
    return torch.tensor(slots.weight_TK)[:, None].bmm(out_TKD.float()).squeeze(1).to(x_TD.dtype)


def _sorted_by_expert(chosen: list[list[int]], experts: int) -> tuple[list[int], list[list[int]], dict[int, int]]:
    """Of ``FewSlots``: token_S, row_TK and counts. A choice of number ``experts`` is none."""
    tokens_of: dict[int, list[int]] = {}
    for token, choices in enumerate(chosen):
        for expert in choices:
            if expert < experts:
                tokens_of.setdefault(expert, []).append(token)
    counts = {expert: len(tokens) for expert, tokens in tokens_of.items()}
    token_S = [token for tokens in tokens_of.values() for token in tokens]
    next_row = dict(zip(counts, accumulate(counts.values(), initial=0)))
    next_row[experts] = len(token_S)
    row_TK: list[list[int]] = []
    for choices in chosen:
        row_TK.append([next_row[expert] for expert in choices])
        for expert in choices:
            next_row[expert] += expert < experts
    return token_S, row_TK, counts


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
