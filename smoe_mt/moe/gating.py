"""From a gate's logits to choices, combine weights and the balance loss (paper: eq. 5-10).

Everything here is computed in at least float32, whatever the precision of the model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64, else its float32 copy."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class Gate(nn.Module):
    """A gate over ``visible`` experts: ``weight`` [E, D], no bias (eq. 5), starting at U(-1/sqrt(D), 1/sqrt(D)).

    where  how errors name the gate; whoever builds a model of several blocks may set it to say more
    debug  look for what is not finite at every pass; on a GPU the host waits for the answer

    Raises:
        ValueError: fewer visible experts than choices.
    """

    def __init__(self, embed_dim: int, visible: int, top_k: int, where: str, debug: bool = False) -> None:
        super().__init__()
        if top_k > visible:
            raise ValueError(f"top_k={top_k} needs at least {top_k} experts to choose from, but {where} sees {visible}")
        self.where = where
        self.debug = debug
        self.weight = nn.Parameter(torch.empty(visible, embed_dim))
        nn.init.uniform_(self.weight, -1 / math.sqrt(embed_dim), 1 / math.sqrt(embed_dim))

    @property
    def visible(self) -> int:
        """Experts that the gate sees."""
        return self.weight.size(0)

    def forward(self, x_TD: Tensor) -> Tensor:
        """G over the visible experts; [T, E], at least float32.

        Raises:
            FloatingPointError: in debug, a probability that is not finite.
        """
        probs_TE = gate_probabilities(x_TD, self.weight)
        if self.debug:
            self._check(x_TD, probs_TE)
        return probs_TE

    def _check(self, x_TD: Tensor, probs_TE: Tensor) -> None:
        bad = int((~probs_TE.isfinite()).any(dim=1).sum())
        if bad:
            states = ("not finite", "finite")
            raise FloatingPointError(
                f"{self.where}: probabilities of {bad} of {probs_TE.size(0)} tokens are not finite; "
                f"the gate's input is {states[bool(x_TD.isfinite().all())]}, "
                f"its weights are {states[bool(self.weight.isfinite().all())]}"
            )


def gate_probabilities(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """G = softmax(W x) over the experts that the gate sees, without bias (eq. 5); [T, E], at least float32."""
    with torch.autocast(x_TD.device.type, enabled=False):
        x_TD = at_least_float32(x_TD)
        return F.linear(x_TD, weight_ED.to(x_TD.dtype)).softmax(dim=-1)


def choose(probs_TE: Tensor, top_k: int, second_choice: str = "argmax") -> Tensor:
    """The ``top_k`` most probable experts of each token, best first; ties go to the lowest index; int64 [T, K].

    ``second_choice`` "gumbel": after the first one, the largest of log G plus Gumbel noise, as in the released code.
    Repeated argmax rather than ``topk``, whose order among equals is not defined.
    """
    left_TE = probs_TE.detach()
    if second_choice == "gumbel" and top_k > 1:
        first_T1 = left_TE.argmax(dim=1, keepdim=True)
        # G / Exp(1) has the same order as log G + Gumbel noise.
        noisy_TE = left_TE / torch.empty_like(left_TE).exponential_()
        return torch.cat([first_T1, noisy_TE.scatter(1, first_T1, -1.0).argmax(dim=1, keepdim=True)], dim=1)
    choices: list[Tensor] = []
    for k in range(top_k):
        if k:
            left_TE = left_TE.scatter(1, choices[-1].unsqueeze(1), -1.0)
        choices.append(left_TE.argmax(dim=1))
    return torch.stack(choices, dim=1)


def first_choices(choices_TK: Tensor, experts: int, here_T: Tensor | None = None) -> Tensor:
    """Tokens (those of here_T bool [T], None for all) whose first choice is e; int64 [E].

    By comparison: ``bincount`` would read its largest value back from the device.
    """
    chosen_TE = choices_TK[:, :1] == torch.arange(experts, device=choices_TK.device)
    if here_T is not None:
        chosen_TE = chosen_TE & here_T[:, None]
    return chosen_TE.sum(dim=0)


def slot_capacity(capacity_factor: float, tokens: int | Tensor, experts: int, variant: str = "paper") -> int | Tensor:
    """Most slots an expert may serve in training: ceil(factor * T / E); the released code: factor * ceil(T / E).

    ``tokens`` may lie on a device (int64, scalar): so does the result, then.
    """
    tokens = tokens.double() if isinstance(tokens, Tensor) else tokens
    if variant == "release":
        return _ceil(capacity_factor * _ceil(tokens / experts))
    # The small term keeps a product that is an integer but for rounding from being counted as one more.
    return _ceil(capacity_factor * tokens / experts - 1e-9)


def _ceil(x: float | Tensor) -> Any:
    return x.ceil().long() if isinstance(x, Tensor) else math.ceil(x)


def combine_weights(probs_TE: Tensor, choices_TK: Tensor, kept_TK: Tensor | None) -> Tensor:
    """Weight of each choice in y = sum_e G_e FFN_e(x) (eq. 6); 0 where the choice was dropped; [T, K].

    With two choices the weights are renormalised over those that survived the capacity limit (GShard). With one,
    G_e is used as it is: renormalised it would be 1, and the gate would get no gradient.
    """
    weights_TK = probs_TE.gather(1, choices_TK)
    if kept_TK is not None:
        weights_TK = weights_TK * kept_TK
    if choices_TK.size(1) == 1:
        return weights_TK
    total_T1 = weights_TK.sum(dim=1, keepdim=True)
    return weights_TK / total_T1.clamp(min=torch.finfo(weights_TK.dtype).eps)


def balance_loss(probs_TE: Tensor, first_E: Tensor, here_T: Tensor | None = None) -> Tensor:
    """E * sum_e f_e p_e (eq. 8-10), at least 1 for probabilities that agree with the choices; scalar, 0 without tokens.

    ``first_E`` counts the tokens whose first choice is e, before the capacity limit: f_e = count / T.
    ``p_e`` is the mean of G_e over the tokens that reach the gate: those of here_T bool [T], None for all.
    """
    tokens, experts = probs_TE.shape
    mean_E = _mean_over(probs_TE, here_T)
    count = max(tokens, 1) if here_T is None else first_E.sum().clamp(min=1)
    return experts * (first_E.to(probs_TE.dtype) / count * mean_E).sum()


def mean_entropy(probs_TE: Tensor, here_T: Tensor | None = None) -> Tensor:
    """Mean entropy of the gate's distribution over its tokens (here_T bool [T], None for all), in nats; no gradient."""
    entropy_T = torch.special.entr(probs_TE.detach()).sum(dim=1)
    return _mean_over(entropy_T, here_T)


def _mean_over(values: Tensor, here_T: Tensor | None) -> Tensor:
    """Mean over the first dimension, of those that are here (None: all); 0 where nobody is."""
    if here_T is None:
        return values.mean(dim=0) if values.size(0) else values.sum(dim=0)
    here = here_T.view(-1, *[1] * (values.dim() - 1))
    return torch.where(here, values, 0.0).sum(dim=0) / here_T.sum().clamp(min=1)
