"""MoEfication (Zhang et al. 2022, arXiv 2110.01786): a trained dense FFN, cut into experts that are slices of its hidden layer.

After ReLU most hidden units of a token are 0. Units that fire together are one expert, and a selector predicts which experts
fire for a token x:

    y = b_out + sum over the n chosen experts e of W_out[:, e] relu(W_in[e] x + b_in[e])

With all experts chosen that is the dense FFN. Three selectors score an expert by

    mlp         W_2 tanh(W_1 x / |x|), trained to predict which experts fire most (``smoe_mt.moefication``)
    similarity  the cosine of x and the mean of the expert's rows of W_in
    oracle      what it tells of: the sum of the expert's activations. Computes the first half of the whole dense FFN

A selector is made for a trained FFN. The model's own loss says nothing about it, since every chosen expert weighs 1, so its
weights are parameters that no training changes, and there is no balance loss. ``routing_override`` with ``TopK(n)`` chooses
another number of experts in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.block import Routing, zero_at_padding
from smoe_mt.moe.experts.base import RemoteBinder
from smoe_mt.moe.experts.ffn import Experts
from smoe_mt.moe.routers.base import Choices, Router, Weighting, at_least_float32
from smoe_mt.moe.routers.top_k import TopK
from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.systems.vanilla import MoE

#: Where a bank remembers the place of its units in the dense FFN, below ``experts.``
UNITS = "shared.units"


@dataclass(frozen=True)
class MoefiedOptions:
    """Settings of the model that this system alone has."""

    moefied_choose: float = field(
        default=0.2,
        metadata={"help": "moefied: share of an FFN's experts that a token is sent to", "range": (0, 1, True, False)},
    )
    moefied_select: Literal["mlp", "similarity", "oracle"] = field(
        default="mlp",
        metadata={
            "help": "moefied: what predicts the experts that fire; oracle: the experts themselves (an upper bound, "
            "which computes half of the dense FFN for it)"
        },
    )


def chosen_of(share: float, experts: int) -> int:
    """Experts of a token: this share of them, rounded, at least one."""
    return min(experts, max(1, math.floor(share * experts + 0.5)))


def activity(x_TD: Tensor, w_in: Tensor, b_in: Tensor) -> Tensor:
    """The sum of each expert's activations, relu(W_in x + b_in): w_in [E, F, D], b_in [E, F]; [T, E]."""
    h_TU = F.relu(F.linear(x_TD, w_in.flatten(0, 1), b_in.flatten()))
    return h_TU.view(-1, *b_in.shape).sum(dim=2)


class SharedBySlices(nn.Module):
    """What no single slice has: the FFN's output bias ``b_out`` [D], and ``units``, int64 [E, F], the place of each unit in it."""

    units: Tensor

    def __init__(self, num_experts: int, embed_dim: int, ffn_dim: int, bound: float) -> None:
        super().__init__()
        self.b_out = nn.Parameter(torch.empty(embed_dim).uniform_(-bound, bound))
        self.register_buffer("units", torch.arange(num_experts * ffn_dim).view(num_experts, ffn_dim))


class SlicedFFN(Experts):
    """The hidden units of one FFN, dealt out to experts of equal size. Its output bias belongs to none of them.

    Parameters: ``w_in`` [E, F, D], ``b_in`` [E, F], ``w_out`` [E, D, F]; ``shared.b_out`` [D], which the block adds once.
    Buffer ``shared.units``, int64 [E, F]: where each unit was in the dense FFN.

    divisible  its experts may be spread over ranks
    """

    def __init__(self, num_experts: int, embed_dim: int, ffn_dim: int, activation: str = "relu") -> None:
        super().__init__(num_experts, embed_dim, ffn_dim, activation, bias_out=False)
        self.divisible = True
        bound = 1 / math.sqrt(num_experts * ffn_dim)
        nn.init.uniform_(self.w_out, -bound, bound)  # as that of the whole FFN starts
        self.shared = SharedBySlices(num_experts, embed_dim, ffn_dim, bound)

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        """Raises ValueError: each of these experts is a part of an FFN."""
        raise ValueError("experts of moefied are slices of an FFN; `smoe-mt checkpoint moefy` makes them")

    def keep(self, numbers: Sequence[int], remote: RemoteBinder) -> None:
        """Raises ValueError where a selector must see all experts."""
        if not self.divisible:
            raise ValueError("the selector oracle needs all experts on its rank; choose mlp or similarity")
        super().keep(numbers, remote)


class Selector(Router):
    """Base of the three: scores that no training changes, and no loss; the ``chosen`` best experts weigh 1 each."""

    def __init__(self, num_experts: int, chosen: int) -> None:
        super().__init__(num_experts, TopK(chosen), Weighting.ONE)

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        """A balance loss of 0, which the criterion asks of every router."""
        return {"balance": probs_TE.new_zeros(())}


class MLPSelector(Selector):
    """sigmoid(W_2 tanh(W_1 x / |x|)): ``w_1`` [E, D], ``w_2`` [E, E], which starts as the identity. No biases."""

    def __init__(self, embed_dim: int, num_experts: int, chosen: int) -> None:
        super().__init__(num_experts, chosen)
        start = torch.empty(num_experts, embed_dim).uniform_(-1, 1) / math.sqrt(embed_dim)
        self.w_1 = nn.Parameter(start, requires_grad=False)
        self.w_2 = nn.Parameter(torch.eye(num_experts), requires_grad=False)

    def logits(self, x_TD: Tensor) -> Tensor:
        """Before the sigmoid; [T, E], at least float32."""
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = F.normalize(at_least_float32(x_TD), dim=1)
            hidden_TE = F.linear(x_TD, self.w_1.to(x_TD.dtype)).tanh()
            return F.linear(hidden_TE, self.w_2.to(x_TD.dtype))

    def scores(self, x_TD: Tensor) -> Tensor:
        return self.logits(x_TD).sigmoid()


class SimilaritySelector(Selector):
    """The cosine c of x and each expert's mean row, ``centre`` [E, D], as (1 + c) / 2."""

    def __init__(self, embed_dim: int, num_experts: int, chosen: int) -> None:
        super().__init__(num_experts, chosen)
        start = torch.empty(num_experts, embed_dim).uniform_(-1, 1) / math.sqrt(embed_dim)
        self.centre = nn.Parameter(start, requires_grad=False)

    def scores(self, x_TD: Tensor) -> Tensor:
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = F.normalize(at_least_float32(x_TD), dim=1)
            cosine_TE = F.linear(x_TD, F.normalize(self.centre.to(x_TD.dtype), dim=1))
        return ((1 + cosine_TE) / 2).clamp(0, 1)


class OracleSelector(Selector):
    """The sum of each expert's activations over the largest one: the largest part of them that n experts can keep."""

    def __init__(self, bank: SlicedFFN, chosen: int) -> None:
        super().__init__(bank.num_experts, chosen)
        self._bank = (bank,)  # in a tuple, for it is the block's and not a part of the selector
        bank.divisible = False

    def scores(self, x_TD: Tensor) -> Tensor:
        (bank,) = self._bank
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = at_least_float32(x_TD)
            w_in, b_in, _, _ = bank.weights(x_TD.dtype)
            sums_TE = activity(x_TD, w_in, b_in)
        return sums_TE / sums_TE.amax(dim=1, keepdim=True).clamp(min=torch.finfo(sums_TE.dtype).tiny)


class MoefiedFFN(MoE):
    """A ``MoE`` layer over the slices of one FFN, whose output bias is added once."""

    experts: SlicedFFN

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        y, routing = super().forward(x, padding_mask)
        return zero_at_padding(y + self.experts.shared.b_out.to(y.dtype), padding_mask), routing


def build(cfg: ModelSettings, place: BlockPlace) -> MoefiedFFN:
    """An expert has the FFN's hidden units over the number of experts, rounded down. Nothing is dropped unless a capacity is set.

    Raises:
        ValueError: an activation that is not ReLU, or more experts than hidden units.
    """
    if cfg.activation_fn != "relu":
        raise ValueError(f"activation_fn={cfg.activation_fn}: moefied needs relu, whose units are mostly 0")
    experts, chosen = place.num_experts, chosen_of(cfg.moefied_choose, place.num_experts)
    bank = SlicedFFN(experts, place.embed_dim, place.ffn_dim // experts)
    selectors: dict[str, Any] = {
        "mlp": lambda seen: MLPSelector(place.embed_dim, seen, chosen),
        "similarity": lambda seen: SimilaritySelector(place.embed_dim, seen, chosen),
        "oracle": lambda seen: OracleSelector(bank, chosen),
    }
    settings: dict[str, Any] = common_settings(cfg, place)
    if cfg.capacity_factor is None:
        settings["capacity_factor"] = 0.0
    return MoefiedFFN(num_experts=experts, **settings, experts=bank, router=selectors[str(cfg.moefied_select)])


SYSTEM = System(
    name="moefied",
    title="a dense FFN cut into experts (MoEfication)",
    build=build,
    rows_per_token=lambda cfg, groups: (chosen_of(cfg.moefied_choose, sum(groups)),),
    row_name=lambda cfg: "moefied",
    options=MoefiedOptions,
    rows_vary=False,
    ignores=("top_k", "second_choice", "gate_bias"),
)
