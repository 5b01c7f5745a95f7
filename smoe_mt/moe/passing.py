"""One gate and the experts that it sees: the pass that every block of this package is made of (paper: eq. 5, 6, 8-10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.moe.dispatch import plan_dispatch
from smoe_mt.moe.gating import Gate, balance_loss, choose, combine_weights, first_choices, mean_entropy, slot_capacity
from smoe_mt.moe.masking import ExpertOutputMask
from smoe_mt.moe.remote import AnyExperts
from smoe_mt.moe.routing import GateLoad

VARIANTS = ("paper", "release")
SECOND_CHOICES = ("argmax", "gumbel")


@dataclass(frozen=True)
class PassSettings:
    """How tokens pass a gate.

    top_k            experts a token is sent to, 1 or 2
    capacity_factor  an expert serves at most ceil(capacity_factor * T / E) slots in training; 0 drops nothing
    variant          "paper", or "release": the released code's capacity, capacity_factor * ceil(T / E)
    expert_dropout   dropout on an expert's output, before the combination (released code)
    second_choice    "argmax", or "gumbel": drawn with noise, in evaluation too (released code)
    """

    top_k: int
    capacity_factor: float
    variant: str
    expert_dropout: float
    second_choice: str = "argmax"

    def __post_init__(self) -> None:
        if self.top_k not in (1, 2):
            raise ValueError(f"top_k must be 1 or 2, not {self.top_k}")
        if not self.capacity_factor >= 0:
            raise ValueError(f"capacity_factor must be 0 (nothing is dropped) or positive, not {self.capacity_factor}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}: choose one of {', '.join(VARIANTS)}")
        if self.second_choice not in SECOND_CHOICES:
            known = ", ".join(SECOND_CHOICES)
            raise ValueError(f"unknown second_choice {self.second_choice!r}: choose one of {known}")
        if not 0 <= self.expert_dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.expert_dropout}")


@dataclass(frozen=True)
class GatePass:
    """What passing one gate gave: y_TD, the first choice of each token (int64 [T]) and the gate's share of Routing."""

    y_TD: Tensor
    first_T: Tensor
    balance_loss: Tensor
    load: GateLoad
    entropy: Tensor


def pass_gate(
    x_TD: Tensor,
    here_T: Tensor | None,
    gate: Gate,
    run: AnyExperts,
    first_expert: int,
    mask: ExpertOutputMask,
    settings: PassSettings,
) -> GatePass:
    """Send tokens through the experts that ``gate`` sees, numbers ``first_expert`` and up: y = sum_e G_e FFN_e(x).

    x_TD float [T, D]; here_T bool [T], the tokens that count (None: all; y is 0 for the others). Choices are
    numbered from 0 among the visible experts. With ``gate`` in training mode there are capacity limits.
    """
    visible = gate.visible
    probs_TE = gate(x_TD)
    choices_TK = choose(probs_TE, settings.top_k, settings.second_choice)
    first_E = first_choices(choices_TK, visible, here_T)
    capacity = None
    if gate.training and settings.capacity_factor:
        tokens = x_TD.size(0) if here_T is None else first_E.sum()
        capacity = slot_capacity(settings.capacity_factor, tokens, visible, settings.variant)
    plan = plan_dispatch(choices_TK, visible, capacity, here_T)
    weights_TK = mask(combine_weights(probs_TE, choices_TK, plan.kept_TK))
    return GatePass(
        y_TD=run(x_TD, weights_TK, plan, first_expert),
        first_T=choices_TK[:, 0],
        balance_loss=balance_loss(probs_TE, first_E, here_T),
        load=GateLoad(asked=plan.asked_E, served=plan.served_E, tokens=first_E),
        entropy=mean_entropy(probs_TE, here_T),
    )


def empty_load(gate: Gate) -> GateLoad:
    """The load of a gate that no token reached."""
    zeros_E = torch.zeros(gate.visible, dtype=torch.long, device=gate.weight.device)
    return GateLoad(zeros_E, zeros_E, zeros_E)
