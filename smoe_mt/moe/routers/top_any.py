"""Top-any routing (DynMoE, Guo et al. 2024, arXiv 2405.14297): all experts whose score exceeds a threshold of their own; experts
leave and join during training.

    s_e = sigmoid(scale cos(x, w_e)), 0 for an expert that is not active;  theta_e = sigmoid(scale g_e)

A token takes expert e where s_e > theta_e, and each of its k experts weighs 1/k. The scale changes gradients and no choice:
s_e > theta_e where cos(x, w_e) > g_e. But where scale * g_e is above 16, theta_e rounds to 1 in float32, and nobody exceeds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoe_mt.moe.losses import mean_over
from smoe_mt.moe.routers.base import Choices, Router, Selection, Weighting, at_least_float32

LARGEST_SCALE = 100.0  # of a learned one (released code)


@dataclass(frozen=True)
class TopAny:
    """All experts with a score above their threshold, that with the largest margin first; it leads.

    A token without any takes the expert of the highest score, whatever its threshold; with ``silent`` none, and that expert
    leads it.

    thresholds  of each expert, [E], or one for all
    """

    thresholds: Tensor | float = 0.5
    silent: bool = False

    def __call__(self, probs_TE: Tensor, may_sync: bool) -> Choices:
        scores_TE = probs_TE.detach()
        margin_TE = scores_TE - self.thresholds
        # Those that are not chosen come after all others, by their score: sorted twice, since a sum with it could round it away.
        by_score_TE = scores_TE.argsort(dim=1, descending=True, stable=True)
        margin_of_TE = torch.where(margin_TE > 0, margin_TE, -1.0).gather(1, by_score_TE)
        order_TE = by_score_TE.gather(1, margin_of_TE.argsort(dim=1, descending=True, stable=True))
        chosen_TE = (margin_TE > 0).gather(1, order_TE)
        if not self.silent:
            chosen_TE[:, 0] = True
        experts_TE = order_TE.masked_fill(~chosen_TE, probs_TE.size(1))
        if not may_sync or probs_TE.size(0) == 0:
            return Choices(experts_TE, order_TE[:, 0], complete=False)
        k_T = chosen_TE.sum(dim=1)
        least, most = torch.stack([k_T.min(), k_T.max()]).tolist()
        most = max(most, 1)
        return Choices(experts_TE[:, :most], order_TE[:, 0], complete=least == most)

    def check(self, visible: int, where: str) -> None:
        """Any number of experts will do."""


@dataclass(frozen=True)
class Adaptation:
    """When experts leave and join: after every ``every`` updates, by what the last ``window`` of them counted; 0: never. After ``until`` updates
    nobody leaves or joins any more; 0: no end.

    Raises:
        ValueError: a negative ``every``, or a window that is not between 1 and ``every``.
    """

    every: int = 900
    window: int = 300
    until: int = 0

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"dynmoe_adapt_every must be 0 (never) or positive, not {self.every}")
        if self.every and not 1 <= self.window <= self.every:
            raise ValueError(
                f"dynmoe_adapt_window must be between 1 and dynmoe_adapt_every={self.every}, not {self.window}"
            )


class TopAnyGate(Router):
    """The gate of DynMoE over a fixed number of experts, of which some are active.

    groups       experts of each stratum that it sees; of a plain layer one number
    start        experts of each group that are active at the start, the first ones; 0: all
    adaptation   when experts leave and join
    scale        of cosine and threshold
    learn_scale  it is a parameter, its logarithm at most that of 100
    extra        the losses of the released DeepSpeed code besides: balance and efficiency

    Parameters: ``weight`` [E, D], which starts with orthogonal rows; ``threshold`` [E], g, at 0; ``log_scale``.
    Buffers: ``active`` bool [E]; ``counts`` int64 [E] and ``silent`` [D], of the window so far; ``updates`` int64.

    **Gradient.** The number of experts has none. In training the weight 1/k of a chosen expert has the gradient of
    (s_e - theta_e) / k, as in the released code; experts that are not chosen get none, for their outputs are not computed.

    **Losses.** "diversity": Frobenius norm of W W^T - I for unit rows of active experts; "simplicity": mean norm of all rows;
    both do not depend on the tokens and are 0 without any. "balance" and "efficiency" are 0 without ``extra``.

    **Experts leave and join.** At the end of a window an expert that no token chose in it is no longer active. If there were
    tokens that chose nobody, the first expert that is not active becomes active: its row is the direction of their sum and
    its threshold 0; its FFN stays as it lies there. The last expert never leaves.
    """

    loss_names = ("balance", "diversity", "simplicity", "efficiency")
    measure_names = ("experts_active", "experts_chosen", "chose_nobody")
    active: Tensor
    counts: Tensor
    silent: Tensor
    updates: Tensor
    passed_counts: Tensor
    passed_silent: Tensor

    def __init__(
        self,
        embed_dim: int,
        groups: Sequence[int],
        start: int = 0,
        adaptation: Adaptation = Adaptation(),
        scale: float = 1.0,
        learn_scale: bool = False,
        extra: bool = False,
    ) -> None:
        num_experts = sum(groups)
        super().__init__(num_experts, TopAny(), Weighting.UNIFORM)
        if start < 0:
            raise ValueError(f"dynmoe_start must be 0 (all experts) or positive, not {start}")
        if not 0 < scale <= LARGEST_SCALE:
            raise ValueError(f"dynmoe_scale must be above 0 and at most {LARGEST_SCALE:g}, not {scale}")
        self.adaptation = adaptation
        self.extra = extra
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim))
        nn.init.orthogonal_(self.weight)
        self.threshold = nn.Parameter(torch.zeros(num_experts))
        self.scale = scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None
        active = [number < (start or size) for size in groups for number in range(size)]
        self.register_buffer("active", torch.tensor(active))
        self.register_buffer("counts", torch.zeros(num_experts, dtype=torch.long))
        self.register_buffer("silent", torch.zeros(embed_dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.add_statistic("passed_counts", torch.zeros(num_experts, dtype=torch.long))
        self.add_statistic("passed_silent", torch.zeros(embed_dim))
        self._updates_on_host: int | None = None

    # --- scores, thresholds, weights ---

    def scores(self, x_TD: Tensor) -> Tensor:
        """s; [T, E]."""
        with torch.autocast(x_TD.device.type, enabled=False):
            x_TD = at_least_float32(x_TD)
            cosine_TE = F.linear(F.normalize(x_TD, dim=1), F.normalize(self.weight.to(x_TD.dtype), dim=1))
            scores_TE = (cosine_TE * self._scale(x_TD.dtype)).sigmoid()
            # However small: 0 is of experts that are not active.
            return scores_TE.clamp(min=torch.finfo(scores_TE.dtype).tiny) * self.active

    def thresholds(self, dtype: torch.dtype) -> Tensor:
        """theta; [E]."""
        return (self.threshold.to(dtype) * self._scale(dtype)).sigmoid()

    def _scale(self, dtype: torch.dtype) -> Tensor | float:
        if self.log_scale is None:
            return self.scale
        return self.log_scale.to(dtype).clamp(max=math.log(LARGEST_SCALE)).exp()

    def choose(self, probs_TE: Tensor, selection: Selection, may_sync: bool) -> Choices:
        """By the thresholds; any other selection chooses among all experts, and one that is not active serves nobody."""
        if selection is self.selection:
            thresholds_E = self.thresholds(probs_TE.dtype).detach()
            return TopAny(thresholds_E, silent=self.training)(probs_TE, may_sync)
        choices = super().choose(probs_TE, selection, may_sync)
        served_E = F.pad(self.active, (0, 1))
        experts_TK = choices.experts_TK.masked_fill(~served_E[choices.experts_TK], self.num_experts)
        return choices._replace(experts_TK=experts_TK, complete=False)

    def combine(self, probs_TE: Tensor, choices: Choices, kept_TK: Tensor | None, weighting: Weighting) -> Tensor:
        """1/k, in training with the gradient of the margins."""
        weights_TK = super().combine(probs_TE, choices, kept_TK, weighting)
        if not self.training:
            return weights_TK
        margin_TE = probs_TE - self.thresholds(probs_TE.dtype)
        margin_TK = margin_TE.gather(1, choices.experts_TK.clamp(max=self.num_experts - 1))
        return weights_TK * (1 + margin_TK - margin_TK.detach())

    # --- losses, and what the log shows ---

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        with torch.autocast(x_TD.device.type, enabled=False):
            reached = mean_over(torch.ones_like(probs_TE[:, 0]), active_T)
            found = {name: reached * loss for name, loss in self._losses_of_weights(probs_TE.dtype).items()}
            zero = torch.zeros_like(reached)
            extra = self._losses_of_choices(probs_TE, choices, active_T) if self.extra else (zero, zero)
        return {"balance": extra[0], **found, "efficiency": extra[1]}

    def _losses_of_weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        weight_ED = self.weight.to(dtype)
        unit_ED = F.normalize(weight_ED, dim=1)
        apart_EE = unit_ED @ unit_ED.t() - torch.eye(self.num_experts, dtype=dtype, device=weight_ED.device)
        both_EE = self.active[:, None] & self.active
        return {
            "diversity": torch.where(both_EE, apart_EE, 0.0).norm(),
            "simplicity": weight_ED.norm(dim=1).mean(),
        }

    def _losses_of_choices(self, probs_TE: Tensor, choices: Choices, active_T: Tensor | None) -> tuple[Tensor, Tensor]:
        """(balance, efficiency): E sum_e f_e p_e with all choices and the weights 1/k of the tokens that chose somebody; the
        share of all experts that a token takes. Choices have the gradient of their margins, in training."""
        chosen_TE = self._chosen(choices)
        taken_TE = chosen_TE.to(probs_TE.dtype)
        if self.training:
            margin_TE = probs_TE - self.thresholds(probs_TE.dtype)
            taken_TE = taken_TE * (1 + margin_TE - margin_TE.detach())
        some_T = chosen_TE.any(dim=1)
        efficiency = mean_over(taken_TE.mean(dim=1), active_T)
        some_T = some_T if active_T is None else some_T & active_T
        share_TE = taken_TE / torch.where(some_T, taken_TE.sum(dim=1), 1.0)[:, None]
        balance = mean_over(share_TE, some_T) * mean_over(chosen_TE.to(probs_TE.dtype), some_T)
        return self.num_experts * balance.sum(), efficiency

    def _chosen(self, choices: Choices) -> Tensor:
        """Which experts each token takes; bool [T, E]."""
        chosen = torch.zeros(
            len(choices.experts_TK), self.num_experts + 1, dtype=torch.bool, device=choices.experts_TK.device
        )
        return chosen.scatter_(1, choices.experts_TK, True)[:, :-1]

    def entropy(self, probs_TE: Tensor, choices: Choices, active_T: Tensor | None) -> Tensor:
        """Of the weights, which are uniform: the mean of log k."""
        k_T = (choices.experts_TK < self.num_experts).sum(dim=1)
        return mean_over(k_T.clamp(min=1).to(probs_TE.dtype).log(), active_T)

    def measures(self, probs_TE: Tensor, choices: Choices, active_T: Tensor | None) -> Mapping[str, Tensor]:
        """Active experts; those of a token; the share of tokens without a score above a threshold."""
        margin_TE = probs_TE.detach() - self.thresholds(probs_TE.dtype).detach()
        k_T = (choices.experts_TK < self.num_experts).sum(dim=1)
        nobody_T = ~(margin_TE > 0).any(dim=1)
        return {
            "experts_active": self.active.sum().to(probs_TE.dtype),
            "experts_chosen": mean_over(k_T.to(probs_TE.dtype), active_T),
            "chose_nobody": mean_over(nobody_T.to(probs_TE.dtype), active_T),
        }

    # --- experts leave and join ---

    def observe(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, asked_E: Tensor, active_T: Tensor | None
    ) -> None:
        silent_T = (choices.experts_TK >= self.num_experts).all(dim=1)
        silent_T = silent_T if active_T is None else silent_T & active_T
        self.passed_counts += asked_E
        self.passed_silent += torch.where(silent_T[:, None], x_TD, 0.0).sum(dim=0, dtype=self.passed_silent.dtype)

    def after_update(self) -> None:
        """Count what passed if a window is open; at its end let experts leave and join."""
        every, window = self.adaptation.every, self.adaptation.window
        done = self._count_update()
        if not every or done > (self.adaptation.until or done):
            return
        if (done - 1) % every >= every - window:
            self.counts += self.passed_counts
            self.silent += self.passed_silent
        if done % every == 0:
            self._adapt()
            self.counts.zero_()
            self.silent.zero_()

    def _count_update(self) -> int:
        """Updates so far, this one included; the device is asked after loading alone."""
        if self._updates_on_host is None:
            self._updates_on_host = int(self.updates)
        self._updates_on_host += 1
        self.updates.fill_(self._updates_on_host)
        return self._updates_on_host

    def _adapt(self) -> None:
        stays_E = self.active & (self.counts > 0)
        length = self.silent.norm()
        free = (~stays_E).nonzero().flatten().tolist()
        if free and length > 0:
            stays_E[free[0]] = True
            self.weight[free[0]] = (self.silent / length).to(self.weight.dtype)
            self.threshold[free[0]] = 0.0
        if stays_E.any():
            self.active.copy_(stays_E)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._updates_on_host = None
