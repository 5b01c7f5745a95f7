"""The softmax gate of the paper (eq. 5), with what a user may ask of it: a bias, a z-loss, biases that balance the load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.losses import z_loss
from smoe_mt.moe.routers.base import Choices, MakeRouter, Router, Selection, Weighting, at_least_float32
from smoe_mt.moe.routers.bias import LoadBias, bias_step


class Gate(Router):
    """G = softmax(W x): ``weight`` [E, D], starting at U(-1/sqrt(D), 1/sqrt(D)); eq. 5.

    bias  G = softmax(W x + b), ``bias`` [E], starting at 0: an expert that stands for n alike ones has log n there

    Where its load is balanced by a bias, that is the buffer ``selection_bias``, and ``load`` counts choices.
    """

    on_request = ("z",)
    load: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_experts: int,
        selection: Selection,
        weighting: Weighting,
        where: str = "the gate",
        debug: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(num_experts, selection, weighting, where, debug)
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim))
        nn.init.uniform_(self.weight, -1 / math.sqrt(embed_dim), 1 / math.sqrt(embed_dim))
        self.bias = nn.Parameter(torch.zeros(num_experts)) if bias else None
        self.row_names = ("weight", "bias") if bias else ("weight",)

    def scores(self, x_TD: Tensor) -> Tensor:
        """G over the visible experts; [T, E], at least float32."""
        return gate_probabilities(x_TD, self.weight, self.bias)

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        """The balance loss, and "z" where it is requested."""
        found = super().losses(x_TD, probs_TE, choices, lead_E, active_T)
        if "z" not in self.loss_names:
            return found
        return {**found, "z": z_loss(gate_logits(x_TD, self.weight, self.bias), active_T)}

    def balance_load(self, bias: LoadBias, groups: Sequence[int]) -> None:
        self._bias, self._groups = bias, tuple(groups)
        del self.selection_bias
        self.register_buffer("selection_bias", torch.zeros(self.num_experts))
        self.row_names = (*self.row_names, "selection_bias")
        self.add_statistic("load", torch.zeros(self.num_experts, dtype=torch.long))
        self.check_selection(self.selection)

    def observe(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, asked_E: Tensor, active_T: Tensor | None
    ) -> None:
        self.load += asked_E

    def after_update(self) -> None:
        assert self.selection_bias is not None
        self.selection_bias += bias_step(self.load, self._groups, self._bias.step)


def gate_or(
    make_router: MakeRouter | None,
    embed_dim: int,
    num_experts: int,
    selection: Selection,
    weighting: Weighting,
    where: str,
    debug: bool,
    bias: bool = False,
    load_bias: LoadBias | None = None,
    strata: Sequence[int] = (),
) -> Router:
    """The router of a block: what ``make_router`` makes, by default a ``Gate`` with this selection, weighting and bias.

    strata  experts of each stratum that it sees; none: of the only one

    Raises:
        ValueError: a router that sees another number of experts, or that ``load_bias`` does not go with.
    """
    router: Router
    if make_router is None:
        router = Gate(embed_dim, num_experts, selection, weighting, where, debug, bias)
    else:
        router = make_router(num_experts)
        if router.num_experts != num_experts:
            raise ValueError(f"{where} should see {num_experts} experts: its router has scores of {router.num_experts}")
        router.where, router.debug = where, debug
    if load_bias is not None:
        router.balance_load(load_bias, load_bias.groups(strata or (num_experts,)))
    return router


def gate_logits(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """W x, or W x + b; [T, E], at least float32."""
    if torch.is_autocast_enabled(x_TD.device.type):  # to leave it costs as much as a small product
        with torch.autocast(x_TD.device.type, enabled=False):
            return gate_logits(x_TD, weight_ED, bias_E)
    x_TD = at_least_float32(x_TD)
    bias_E = None if bias_E is None else bias_E.to(x_TD.dtype)
    return F.linear(x_TD, weight_ED.to(x_TD.dtype), bias_E)


def gate_probabilities(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None) -> Tensor:
    """G = softmax(W x) over the experts that the gate sees (eq. 5), or softmax(W x + b); [T, E], at least float32."""
    return gate_logits(x_TD, weight_ED, bias_E).softmax(dim=-1)
