"""Losses and measures of what a gate decided: plain functions of its probabilities and choices (paper: eq. 8-10).

active_T, in all of them: bool [T], the tokens that count; None for all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balance_loss(probs_TE: Tensor, first_E: Tensor, active_T: Tensor | None = None) -> Tensor:
    """E * sum_e f_e p_e (eq. 8-10), at least 1 for probabilities that agree with the choices; scalar, 0 without tokens.

    ``first_E`` counts the tokens whose first choice is e, before the capacity limit: f_e = count / T.
    ``p_e`` is the mean of G_e over the tokens that reach the gate.
    """
    tokens, experts = probs_TE.shape
    mean_E = mean_over(probs_TE, active_T)
    count = max(tokens, 1) if active_T is None else first_E.sum().clamp(min=1)
    return experts * (first_E.to(probs_TE.dtype) / count * mean_E).sum()


def z_loss(logits_TE: Tensor, active_T: Tensor | None = None) -> Tensor:
    """Mean over the tokens of (log sum_e exp logit_e)^2 (ST-MoE, arXiv 2202.08906, eq. 5): it keeps logits small; scalar."""
    return mean_over(logits_TE.logsumexp(dim=1).square(), active_T)


def mean_entropy(probs_TE: Tensor, active_T: Tensor | None = None) -> Tensor:
    """Mean entropy of the gate's distribution over its tokens, in nats; no gradient."""
    entropy_T = torch.special.entr(probs_TE.detach()).sum(dim=1)
    return mean_over(entropy_T, active_T)


def mean_over(values: Tensor, active_T: Tensor | None) -> Tensor:
    """Mean over the first dimension, of the active tokens; 0 if no token is active."""
    if active_T is None:
        return values.mean(dim=0) if values.size(0) else values.sum(dim=0)
    active = active_T.view(-1, *[1] * (values.dim() - 1))
    return torch.where(active, values, 0.0).sum(dim=0) / active_T.sum().clamp(min=1)


def size_penalty(probs_TE: Tensor, asked_E: Tensor, sizes_E: Tensor, active_T: Tensor | None = None) -> Tensor:
    """E * sum_e M_e p_e, HMoE's P-penalty: load weighs as much as the expert is large; scalar, 0 without tokens.

    M_e is the mean over the tokens of the hidden units of e that they ask for, relative to the mean of ``sizes_E``, int64 [E].
    ``asked_E`` counts the choices of e, first or not, before the capacity limit. With equal sizes it is the balance loss over
    all choices: K at its balance with K choices.
    """
    tokens, experts = probs_TE.shape
    count = max(tokens, 1) if active_T is None else active_T.sum().clamp(min=1)
    relative_E = sizes_E.to(probs_TE.dtype) * experts / sizes_E.sum()
    return experts * (asked_E.to(probs_TE.dtype) / count * relative_E * mean_over(probs_TE, active_T)).sum()


def entropy_loss(probs_TE: Tensor, active_T: Tensor | None = None) -> Tensor:
    """Mean entropy of the gate's distribution, in nats, with a gradient that stays finite where a probability is 0."""
    smallest = torch.finfo(probs_TE.dtype).tiny
    return mean_over(-(probs_TE * probs_TE.clamp(min=smallest).log()).sum(dim=1), active_T)
