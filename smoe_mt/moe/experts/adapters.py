"""Adapters as experts: A_e(u) = W_up act(W_down u), without biases; the identity beside it is the block's to add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts.base import AroundExperts
from smoe_mt.moe.experts.ffn import Experts


class Adapters(Experts):
    """``w_in`` = W_down [E, W, D] starts as in ``Experts``, ``w_out`` = W_up [E, D, W] at 0: an adapter first adds nothing."""

    def __init__(self, num_experts: int, embed_dim: int, width: int, activation: str = "gelu") -> None:
        super().__init__(num_experts, embed_dim, width, activation, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.w_out)

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        """Adapters as they start: they add nothing to the FFN, which stands beside them."""
        return {"w_in": self.w_in.detach().clone(), "w_out": self.w_out.detach().new_zeros(self.w_out.shape)}


@dataclass(frozen=True)
class Reading(AroundExperts):
    """Experts that read ``u_TD`` of each token, not what its gate reads."""

    u_TD: Tensor

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] expert(u) over the served slots; [T, D]."""
        return self.experts(self.u_TD, weights_TK, plan, first_expert)
