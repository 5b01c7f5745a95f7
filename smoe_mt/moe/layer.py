"""The plain mixture-of-experts layer: GShard top-2, Switch top-1 (paper: section 4)."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from smoe_mt.moe.backends import check_backend, compute_dtype, fuses
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.gating import Gate
from smoe_mt.moe.masking import ExpertOutputMask
from smoe_mt.moe.passing import PassSettings, empty_load, pass_gate
from smoe_mt.moe.remote import ready_experts
from smoe_mt.moe.routing import Routing
from smoe_mt.moe.walk import Visit, walk


class MoESettings(TypedDict, total=False):
    """The settings of ``MoE`` besides its sizes and top_k, for blocks that are made of such layers."""

    capacity_factor: float
    variant: str
    dropout: float
    activation: str
    backend: str
    eom_p: float
    second_choice: str
    debug: bool


class MoE(nn.Module):
    """One gate over ``num_experts`` FFNs; norm, dropout and residual around it belong to the transformer layer.

    top_k            2: GShard, 1: Switch
    capacity_factor  slots an expert serves in training, times T / E; 0 drops nothing. Evaluation drops nothing.
    variant          "paper", or "release": capacity factor * ceil(T / E) (Switch: factor 1), dropout inside the experts
    backend          "auto", "loop", "grouped" or "triton": see ``backends``
    eom_p            expert output masking (EOM); 0: none
    second_choice    "argmax", or "gumbel": drawn with noise in training and evaluation, as the released code does
    debug            a gate with probabilities that are not finite raises FloatingPointError

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
        second_choice: str = "argmax",
        debug: bool = False,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.backend = backend
        expert_dropout = dropout if variant == "release" else 0.0
        self.settings = PassSettings(top_k, capacity_factor, variant, expert_dropout, second_choice)
        self.mask = ExpertOutputMask(eom_p)
        self.experts = Experts(num_experts, embed_dim, ffn_dim, activation)
        self.gate = Gate(embed_dim, num_experts, top_k, "the gate", debug)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        if fuses(self.backend, self.experts, [self.gate], x):
            return self._fused(x, padding_mask)
        run = ready_experts(self.experts, x, self.backend, self.settings.expert_dropout if self.training else 0.0)

        def visit(_gate: int, x_TD: Tensor, here_T: Tensor | None) -> Visit:
            passed = pass_gate(x_TD, here_T, self.gate, run, 0, self.mask, self.settings)
            return Visit(passed.y_TD, torch.ones_like(passed.first_T), passed)

        padding_N = None if padding_mask is None else padding_mask.reshape(-1)
        x_ND = x.reshape(-1, x.size(-1))
        walked = walk(x_ND, padding_N, 1, visit, run)
        y_ND = walked.x_ND if padding_N is None else walked.x_ND.masked_fill(padding_N[:, None], 0.0)
        (passed,) = walked.passes
        visits = walked.visits_N.view(x.shape[:-1])
        if passed is None:
            zero = torch.zeros((), device=x.device)
            return y_ND.view_as(x), Routing(zero, visits, (empty_load(self.gate),), (zero,))
        return y_ND.view_as(x), Routing(passed.balance_loss, visits, (passed.load,), (passed.entropy,))

    def _fused(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Routing]:
        """The pass as one operator."""
        from smoe_mt.moe.kernels.fused import fused_block

        no_next = self.experts.w_in  # a token leaves after its one gate: nobody looks
        return fused_block(
            x,
            padding_mask,
            self.experts,
            [self.gate],
            [],
            (0,),
            no_next,
            self.settings,
            self.mask,
            0.0,
            compute_dtype(x),
        )
