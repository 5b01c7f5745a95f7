"""The plain mixture-of-experts layer (GShard top-2, Switch top-1), and the pass through a gate that strata share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.dispatch import combine, dispatch, plan_dispatch
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.gating import (
    Gate,
    balance_loss,
    choose,
    combine_weights,
    mean_entropy,
    slot_capacity,
)
from smoe_mt.moe.masking import ExpertOutputMask
from smoe_mt.moe.routing import GateLoad, Routing

VARIANTS = ("paper", "release")
BACKENDS = ("auto", "loop")


@dataclass(frozen=True)
class PassSettings:
    """How tokens pass a gate.

    top_k            experts a token is sent to, 1 or 2
    capacity_factor  an expert serves at most ceil(capacity_factor * T / E) slots in training; 0 drops nothing
    variant          "paper", or "release": the released code's capacity, capacity_factor * ceil(T / E)
    expert_dropout   dropout on an expert's output, before the combination (released code)
    """

    top_k: int
    capacity_factor: float
    variant: str
    expert_dropout: float

    def __post_init__(self) -> None:
        if self.top_k not in (1, 2):
            raise ValueError(f"top_k must be 1 or 2, not {self.top_k}")
        if not self.capacity_factor >= 0:
            raise ValueError(f"capacity_factor must be 0 (nothing is dropped) or positive, not {self.capacity_factor}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}: choose one of {', '.join(VARIANTS)}")
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
    x_TD: Tensor, gate: Gate, experts: Experts, first_expert: int, mask: ExpertOutputMask, settings: PassSettings
) -> GatePass:
    """Send tokens through the experts that ``gate`` sees, numbers ``first_expert`` and up: y = sum_e G_e FFN_e(x) (eq. 5, 6).

    x_TD float [T, D], T > 0; choices are numbered from 0 among the visible experts. ``gate`` in training mode: capacity
    limits, dropout and masks are on.
    """
    visible, training = gate.visible, gate.training
    probs_TE = gate(x_TD)
    choices_TK = choose(probs_TE, settings.top_k)
    capacity = None
    if training and settings.capacity_factor:
        capacity = slot_capacity(settings.capacity_factor, x_TD.size(0), visible, settings.variant)
    plan = plan_dispatch(choices_TK, visible, capacity)
    weights_TK = mask(combine_weights(probs_TE, choices_TK, plan.kept_TK))
    rows_SD = experts(dispatch(x_TD, plan), plan.served_E, first_expert)
    rows_SD = F.dropout(rows_SD, settings.expert_dropout, training)
    first_E = torch.bincount(choices_TK[:, 0], minlength=visible)
    return GatePass(
        y_TD=combine(rows_SD, weights_TK, plan),
        first_T=choices_TK[:, 0],
        balance_loss=balance_loss(probs_TE, first_E),
        load=GateLoad(asked=plan.asked_E, served=plan.served_E, tokens=first_E),
        entropy=mean_entropy(probs_TE),
    )


def check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")


class MoE(nn.Module):
    """One gate over ``num_experts`` FFNs; norm, dropout and residual around it belong to the transformer layer.

    top_k            2: GShard, 1: Switch
    capacity_factor  slots an expert serves in training, times T / E; 0 drops nothing. Evaluation drops nothing.
    variant          "paper", or "release": capacity factor * ceil(T / E) (Switch: factor 1), dropout inside the experts
    eom_p            expert output masking (EOM); 0: none

    Parameters: ``gate.weight`` [E, D] and those of ``experts``.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_experts: int,
        top_k: int = 2,
        capacity_factor: float = 2.0,
        variant: str = "paper",
        dropout: float = 0.0,
        activation: str = "relu",
        backend: str = "auto",
        eom_p: float = 0.0,
    ) -> None:
        super().__init__()
        check_backend(backend)
        expert_dropout = dropout if variant == "release" else 0.0
        self.settings = PassSettings(top_k, capacity_factor, variant, expert_dropout)
        self.mask = ExpertOutputMask(eom_p)
        self.experts = Experts(num_experts, embed_dim, ffn_dim, activation)
        self.gate = Gate(embed_dim, num_experts, top_k, "the gate")

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        x_ND = x.reshape(-1, x.size(-1))
        token_T = real_tokens(padding_mask)
        x_TD = x_ND if token_T is None else x_ND.index_select(0, token_T)
        if x_TD.size(0) == 0:
            return torch.zeros_like(x), empty_routing(x, (self.gate,))
        out = pass_gate(x_TD, self.gate, self.experts, 0, self.mask, self.settings)
        y_ND = out.y_TD if token_T is None else torch.zeros_like(x_ND).index_copy(0, token_T, out.y_TD.to(x_ND.dtype))
        visits = torch.ones(x.shape[:-1], dtype=torch.long, device=x.device)
        if padding_mask is not None:
            visits.masked_fill_(padding_mask, 0)
        return y_ND.view_as(x), Routing(out.balance_loss, visits, (out.load,), (out.entropy,))


def real_tokens(padding_mask: Tensor | None) -> Tensor | None:
    """Indices of the tokens in the flattened input, batch-first; None where nothing is padding; int64 [T]."""
    if padding_mask is None or not padding_mask.any():
        return None
    return (~padding_mask).reshape(-1).nonzero().squeeze(1)


def empty_load(gate: Gate) -> GateLoad:
    """The load of a gate that no token reached."""
    zeros_E = torch.zeros(gate.visible, dtype=torch.long, device=gate.weight.device)
    return GateLoad(zeros_E, zeros_E, zeros_E)


def empty_routing(x: Tensor, gates: tuple[Gate, ...]) -> Routing:
    """The routing of an input without a single token."""
    zero = torch.zeros((), device=x.device)
    visits = torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
    return Routing(zero, visits, tuple(empty_load(gate) for gate in gates), (zero,) * len(gates))
