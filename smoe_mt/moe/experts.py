"""The expert FFNs of a block, their weights stacked: FFN_e(x) = W_out act(W_in x + b_in) + b_out (paper: eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class Experts(nn.Module):
    """``num_experts`` FFNs.

    Parameters: ``w_in`` [E, F, D], ``b_in`` [E, F], ``w_out`` [E, D, F], ``b_out`` [E, D]; each expert starts as an
    ``nn.Linear`` pair does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Raises:
        ValueError: sizes that are not positive, or an unknown activation.
    """

    def __init__(self, num_experts: int, embed_dim: int, ffn_dim: int, activation: str = "relu") -> None:
        super().__init__()
        if min(num_experts, embed_dim, ffn_dim) < 1:
            raise ValueError(
                f"experts need positive sizes, not num_experts={num_experts}, embed_dim={embed_dim}, ffn_dim={ffn_dim}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        self.num_experts = num_experts
        self.activation = activation
        self.w_in = nn.Parameter(torch.empty(num_experts, ffn_dim, embed_dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.w_out = nn.Parameter(torch.empty(num_experts, embed_dim, ffn_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
            bound = 1 / math.sqrt(weight.size(-1))
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, rows_SD: Tensor, counts_E: Tensor, first_expert: int = 0) -> Tensor:
        """Run each expert on its run of rows.

        rows_SD float [S, D], sorted by expert; counts_E int [E_i], rows per expert, summing to S; expert number
        ``first_expert + e`` gets the e-th run. Returns float [S, D].
        """
        act = ACTIVATIONS[self.activation]
        # unbind, not indexing: the backward of w[e] would fill a zero tensor of the whole stack for every expert.
        weights = list(zip(self.w_in.unbind(), self.b_in.unbind(), self.w_out.unbind(), self.b_out.unbind()))
        outputs = []
        for e, rows in enumerate(rows_SD.split(counts_E.tolist()), start=first_expert):
            if rows.size(0):
                w_in, b_in, w_out, b_out = weights[e]
                outputs.append(F.linear(act(F.linear(rows, w_in, b_in)), w_out, b_out))
        return torch.cat(outputs) if outputs else rows_SD
