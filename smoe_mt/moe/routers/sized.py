"""HMoE's gate over experts of different sizes: the softmax gate, with a loss that makes small experts the common ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from smoe_mt.moe.losses import entropy_loss, size_penalty
from smoe_mt.moe.routers.base import Choices, Selection, Weighting, count_leads
from smoe_mt.moe.routers.gate import Gate


class SizedGate(Gate):
    """A ``Gate`` with the losses "penalty" (HMoE's P-penalty) and "entropy" besides "balance".

    sizes          hidden units of the experts that it sees
    narrows        "entropy" is the mean entropy of the gate; else 0: a fixed number of choices is not made smaller by it

    Raises:
        ValueError: as ``Router``.
    """

    loss_names = ("balance", "penalty", "entropy")
    sizes_E: Tensor

    def __init__(
        self,
        embed_dim: int,
        sizes: Sequence[int],
        selection: Selection,
        weighting: Weighting,
        narrows: bool,
        bias: bool = False,
    ) -> None:
        super().__init__(embed_dim, len(sizes), selection, weighting, bias=bias)
        self.narrows = narrows
        self.register_buffer("sizes_E", torch.tensor(sizes), persistent=False)

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        asked_E = sum(
            (count_leads(experts_T, self.num_experts, active_T) for experts_T in choices.experts_TK.unbind(dim=1)),
            torch.zeros_like(lead_E),
        )
        return {
            **super().losses(x_TD, probs_TE, choices, lead_E, active_T),
            "penalty": size_penalty(probs_TE, asked_E, self.sizes_E, active_T),
            "entropy": entropy_loss(probs_TE, active_T) if self.narrows else probs_TE.new_zeros(()),
        }
