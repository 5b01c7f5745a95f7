"""The expert FFNs of a block, their weights stacked: FFN_e(x) = W_out act(W_in x + b_in) + b_out (paper: eq. 1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smoe_mt.moe.activations import activation as known_activation
from smoe_mt.moe.packed import PackedWeights

if TYPE_CHECKING:
    from smoe_mt.moe.parallel import ExpertRanks

STACKED = ("w_in", "b_in", "w_out", "b_out")


class Experts(nn.Module):
    """``num_experts`` FFNs; ``backends.py`` runs them.

    Parameters: ``w_in`` [E, F, D], ``b_in`` [E, F], ``w_out`` [E, D, F], ``b_out`` [E, D]; each expert starts as an
    ``nn.Linear`` pair does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)). After ``spread``, each rank has its own experts alone.

    Raises:
        ValueError: sizes that are not positive, or an unknown activation.
    """

    def __init__(self, num_experts: int, embed_dim: int, ffn_dim: int, activation: str = "relu") -> None:
        super().__init__()
        if min(num_experts, embed_dim, ffn_dim) < 1:
            raise ValueError(
                f"experts need positive sizes, not num_experts={num_experts}, embed_dim={embed_dim}, ffn_dim={ffn_dim}"
            )
        self.num_experts = num_experts
        known_activation(activation)
        self.activation = activation
        self.w_in = nn.Parameter(torch.empty(num_experts, ffn_dim, embed_dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.w_out = nn.Parameter(torch.empty(num_experts, embed_dim, ffn_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, embed_dim))
        self.packed = PackedWeights()
        self.ranks: ExpertRanks | None = None
        self.block = 0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
            bound = 1 / math.sqrt(weight.size(-1))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def train(self, mode: bool = True) -> Experts:
        """Training needs the memory of the packed weights."""
        if mode:
            self.packed.drop()
        return super().train(mode)

    def spread(self, ranks: ExpertRanks) -> None:
        """Keep this rank's experts alone. The parameters get the mark ``expert``: no other rank has the same ones.

        Raises:
            ValueError: more ranks than experts.
        """
        if ranks.size > self.num_experts:
            raise ValueError(
                f"{self.num_experts} experts cannot be spread over {ranks.size} ranks: some would have none"
            )
        mine = ranks.mine(self.num_experts)
        for name in STACKED:
            weight = nn.Parameter(getattr(self, name).detach()[mine])
            weight.expert = True  # type: ignore[attr-defined]
            setattr(self, name, weight)
        self.ranks, self.block = ranks, ranks.join(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Of a whole block's weights a rank takes its own."""
        if self.ranks is not None:
            mine = self.ranks.mine(self.num_experts)
            for name in STACKED:
                given = state_dict.get(prefix + name)
                if given is not None and given.size(0) == self.num_experts:
                    state_dict[prefix + name] = given[mine]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w_in, b_in, w_out, b_out in ``dtype``."""
        return self.w_in.to(dtype), self.b_in.to(dtype), self.w_out.to(dtype), self.b_out.to(dtype)
