"""Criterion ``stratified_routing``: label-smoothed cross-entropy plus alpha x balance loss (paper: eq. 11)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from smoe_mt.allowed.config import check_values
from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.criterions.routing_metrics import log_routing, routing_sums
from smoe_mt.moe import Routing


@register_criterion("stratified_routing", dataclass=StratifiedRoutingConfig)
class StratifiedRoutingCriterion(LabelSmoothedCrossEntropyCriterion):
    """Translation loss + alpha * sample_size * (mean over the model's blocks of the block's balance loss).

    Blocks with conditional routing add weight * sample_size * |mean mixing gate - budget|, the mean over the tokens of
    all encoder and decoder blocks together.

    In validation the loss is the translation loss alone: it picks the best checkpoint. A model without MoE blocks
    has a balance loss of 0.
    """

    def __init__(
        self,
        task: FairseqTask,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        balance_weight: float = 0.01,
        cmr_budget: float = 0.8,
        cmr_weight: float = 0.01,
    ) -> None:
        ours = {"balance_weight": balance_weight, "cmr_budget": cmr_budget, "cmr_weight": cmr_weight}
        check_values(
            "criterion", {"label_smoothing": label_smoothing, "ignore_prefix_size": ignore_prefix_size, **ours}
        )
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.balance_weight = balance_weight
        self.cmr_budget = cmr_budget
        self.cmr_weight = cmr_weight
        self.directions: tuple[str, ...] = tuple(task.directions)

    def forward(
        self, model: nn.Module, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss (sum over target tokens), the sample size that divides it, and sums for logging."""
        net_output = model(**sample["net_input"])
        loss_BT, nll_BT = self.compute_loss(model, net_output, sample, reduce=False)
        nll_loss, loss = nll_BT.sum(), loss_BT.sum()
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.detach(),
            "nll_loss": nll_loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        routing = {side: net_output[1][f"{side}_routing"] for side in ("encoder", "decoder")}
        blocks = [*routing["encoder"], *routing["decoder"]]
        if blocks:
            balance = torch.stack([block.balance_loss for block in blocks]).mean()
            logging_output["balance_loss"] = balance.detach() * sample_size
            logging_output |= routing_sums(routing, sample["direction"], self.directions)
            mean_gate = mixing_gate_mean(blocks)
            if mean_gate is not None:
                logging_output["cmr_gate"] = mean_gate.detach() * sample_size
            if model.training:
                loss = loss + self.balance_weight * sample_size * balance
                if mean_gate is not None:
                    loss = loss + self.cmr_weight * sample_size * (mean_gate - self.cmr_budget).abs()
        if not model.training:
            logging_output |= self._direction_sums(nll_BT, sample)
        return loss, sample_size, logging_output

    def _direction_sums(self, nll_BT: Tensor, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        target = sample["target"]
        nll_B = nll_BT.detach().view(target.size(0), -1).sum(dim=1).double()
        tokens_B = target.ne(self.padding_idx).sum(dim=1).double()
        sums = nll_B.new_zeros(2, len(self.directions))
        sums.index_add_(1, sample["direction"], torch.stack([nll_B, tokens_B]))
        out: dict[str, Tensor] = {}
        for name, nll, tokens in zip(self.directions, *sums.unbind()):
            out[f"nll/{name}"], out[f"ntokens/{name}"] = nll, tokens
        return out

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Log what the ranks' sums amount to; losses in bits a token, as fairseq does."""
        super().reduce_metrics(logging_outputs)
        for name in ("balance_loss", "cmr_gate"):
            if any(name in log for log in logging_outputs):
                size = sum(log["sample_size"] for log in logging_outputs)
                total = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, total / size, size, priority=290, round=3)
        log_routing(logging_outputs)
        for key in (key for key in (logging_outputs[0] if logging_outputs else ()) if key.startswith("nll/")):
            direction = key.removeprefix("nll/")
            nll = float(sum(log[key] for log in logging_outputs if key in log))
            tokens = float(sum(log[f"ntokens/{direction}"] for log in logging_outputs if key in log))
            if tokens:
                metrics.log_scalar(f"nll_loss/{direction}", nll / tokens / math.log(2), tokens, priority=1000, round=3)
                # Of the mean: a mean of perplexities would depend on how sentences are batched and spread over ranks.
                metrics.log_derived(f"ppl/{direction}", partial(perplexity, direction=direction), priority=1000)


def perplexity(meters: Mapping[str, Any], direction: str) -> float:
    """Of a direction, from fairseq's meters."""
    return round(2.0 ** min(meters[f"nll_loss/{direction}"].avg, 70), 2)


def mixing_gate_mean(blocks: Sequence[Routing]) -> Tensor | None:
    """Mean of conditional routing's gate over the tokens of all blocks; None where no block has one."""
    gated = [(block.gate_sum, (block.visits > 0).sum()) for block in blocks if block.gate_sum is not None]
    if not gated:
        return None
    sums, tokens = zip(*gated)
    return torch.stack(sums).sum() / torch.stack(tokens).sum().clamp(min=1)
