"""The pass that every block is made of: router -> dispatch -> experts -> combine (paper: eq. 5, 6, 8-10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smoe_mt.moe.block import GateLoad, wants_routing
from smoe_mt.moe.dispatch import plan_dispatch
from smoe_mt.moe.experts.base import BoundExperts, ExpertBank
from smoe_mt.moe.few import compute_few, few_slots, takes_few
from smoe_mt.moe.kernels.all_experts import ALL_EXPERTS, plan_all
from smoe_mt.moe.routers.base import Choices, Router, count_leads

VARIANTS = ("paper", "release")
ROUNDING = 1e-9  # so that a product that is an integer but for rounding is not counted as one more


@dataclass(frozen=True)
class RoutedOptions:
    """How tokens pass a gate.

    capacity_factor  an expert serves at most ceil(capacity_factor * T / E) slots in training; 0 drops nothing
    variant          "paper", or "release": the released code's capacity, capacity_factor * ceil(T / E)
    expert_dropout   dropout on an expert's output, before the combination (released code)

    Raises:
        ValueError: settings that make no sense, each named.
    """

    capacity_factor: float
    variant: str
    expert_dropout: float

    def __post_init__(self) -> None:
        if not self.capacity_factor >= 0:
            raise ValueError(f"capacity_factor must be 0 (nothing is dropped) or positive, not {self.capacity_factor}")
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}: choose one of {', '.join(VARIANTS)}")
        if not 0 <= self.expert_dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.expert_dropout}")


@dataclass(frozen=True)
class RoutedOutput:
    """What passing one gate gave: y_TD, who leads each token (int64 [T]) and the gate's share of Routing.

    units     hidden units asked for a token: of all, or int64 [T]
    told      the rest of the gate's share; None where it is not wanted (``outputs_only``)
    """

    y_TD: Tensor
    lead_T: Tensor
    units: int | Tensor
    told: ToldByGate | None


@dataclass(frozen=True)
class ToldByGate:
    """Losses, load, entropy and ``Router.measures`` of one pass through a gate."""

    losses: Mapping[str, Tensor]
    load: GateLoad
    entropy: Tensor
    measures: Mapping[str, Tensor]


class ExpertOutputMask(nn.Module):
    """Expert output masking (EOM; paper: section 4): in training an expert's output for a token is left out now and then.

    Masks (token, expert) slots by their combine weights, which come in final: nothing is renormalised. In training each slot
    is masked with probability ``p``, without rescaling; evaluation multiplies all by 1 - p. ``p`` = 0 does nothing.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"eom_p, the probability of masking an expert's output, must be in [0, 1), not {p}")
        self.p = p

    def forward(self, weights_TK: Tensor) -> Tensor:
        """weights_TK float [T, K], 0 where the slot was dropped; returns the same shape."""
        if not self.p:
            return weights_TK
        return weights_TK * self.draw(weights_TK) if self.training else weights_TK * (1 - self.p)

    def draw(self, weights_TK: Tensor) -> Tensor:
        """Which slots stay: 1 with probability 1 - p, else 0; float [T, K]."""
        return (torch.rand_like(weights_TK) >= self.p).to(weights_TK.dtype)


def routed(
    x_TD: Tensor,
    active_T: Tensor | None,
    router: Router,
    experts: BoundExperts,
    first_expert: int,
    sizes: int | Tensor,
    mask: ExpertOutputMask,
    options: RoutedOptions,
) -> RoutedOutput:
    """Send tokens through the experts that ``router`` sees, numbers ``first_expert`` and up: y = sum_e G_e FFN_e(x).

    x_TD float [T, D]; active_T bool [T], the tokens that count (None: all; y is 0 for the others). ``sizes``: as
    ``unit_sizes`` says. With ``router`` in training mode there are capacity limits.
    """
    visible = router.num_experts
    probs_TE = router(x_TD)
    selection, weighting = router.in_force()
    wanted = wants_routing(router.training)
    if not wanted and active_T is None and router.listener is None and takes_few(x_TD.size(0), experts):
        slots = few_slots(probs_TE, router, selection, weighting, 1 - mask.p)
        y_TD = compute_few(x_TD, slots, experts, first_expert)
        return RoutedOutput(y_TD, slots.choices.lead_T, _units(slots.choices, visible, first_expert, sizes), None)
    choices = router.choose(probs_TE, selection, not experts.never_syncs)
    if router.listener is not None:
        router.listener(choices)
    lead_E = count_leads(choices.lead_T, visible, active_T) if wanted else None
    capacity = None
    if router.training and options.capacity_factor:
        tokens = x_TD.size(0) if active_T is None or lead_E is None else lead_E.sum()
        capacity = slot_capacity(options.capacity_factor, tokens, visible, options.variant)
    if experts.kernel == ALL_EXPERTS:
        plan = plan_all(choices.experts_TK, visible, active_T, choices.complete)
    else:
        plan = plan_dispatch(
            choices.experts_TK,
            visible,
            capacity,
            active_T,
            complete=choices.complete,
            priority_TK=choices.priority_TK,
        )
    if router.training and router.statistic_names and not computed_again():
        with torch.no_grad():
            router.observe(x_TD, probs_TE, choices, plan.asked_E, active_T)
    weights_TK = mask(router.combine(probs_TE, choices, plan.kept_TK, weighting))
    y_TD = experts(x_TD, weights_TK, plan, first_expert)
    units = _units(choices, visible, first_expert, sizes)
    if lead_E is None:
        return RoutedOutput(y_TD, choices.lead_T, units, None)
    told = ToldByGate(
        losses=router.losses(x_TD, probs_TE, choices, lead_E, active_T),
        load=GateLoad(asked=plan.asked_E, served=plan.served_E, tokens=lead_E),
        entropy=router.entropy(probs_TE, choices, active_T),
        measures=router.measures(probs_TE, choices, active_T),
    )
    return RoutedOutput(y_TD, choices.lead_T, units, told)


def computed_again() -> bool:
    """Whether a backward pass computes activations anew that were not kept (activation checkpointing)."""
    return int(torch._C._current_graph_task_id()) != -1


def unit_sizes(bank: ExpertBank) -> int | Tensor:
    """Hidden units of each of a bank's experts: one number, or int64 [E + 1] with 0 last, for no choice."""
    size = bank.uniform_size
    return torch.tensor([*bank.hidden_sizes, 0]) if size is None else size


def _units(choices: Choices, visible: int, first_expert: int, sizes: int | Tensor) -> int | Tensor:
    """Hidden units that each token asks for; nothing is computed where all ask for as many."""
    if isinstance(sizes, Tensor):
        return sizes.to(choices.experts_TK.device)[first_expert + choices.experts_TK].sum(dim=1)
    if choices.complete:
        return choices.experts_TK.size(1) * sizes
    return (choices.experts_TK < visible).sum(dim=1) * sizes


def empty_load(router: Router, device: torch.device) -> GateLoad:
    """The load of a gate that no token reached."""
    zeros_E = torch.zeros(router.num_experts, dtype=torch.long, device=device)
    return GateLoad(zeros_E, zeros_E, zeros_E)


def slot_capacity(capacity_factor: float, tokens: int | Tensor, experts: int, variant: str = "paper") -> int | Tensor:
    """Most slots an expert may serve in training: ceil(factor * T / E); the released code: factor * ceil(T / E).

    ``tokens`` may lie on a device (int64, scalar): so does the result, then.
    """
    if isinstance(tokens, Tensor):
        share = tokens.double() / experts
        most = capacity_factor * share.ceil() if variant == "release" else capacity_factor * share - ROUNDING
        return most.ceil().long()
    if variant == "release":
        return math.ceil(capacity_factor * math.ceil(tokens / experts))
    return math.ceil(capacity_factor * tokens / experts - ROUNDING)
