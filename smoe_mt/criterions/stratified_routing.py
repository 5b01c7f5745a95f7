"""Criterion ``stratified_routing``: label-smoothed cross-entropy plus alpha x balance loss (paper: eq. 11)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from smoe_mt.allowed.config import check_values
from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.criterions.host_sums import host_sums
from smoe_mt.criterions.routing_metrics import log_routing, routing_sums
from smoe_mt.criterions.smoothed_loss import smoothed_loss
from smoe_mt.errors import UserError
from smoe_mt.moe import Routing, System
from smoe_mt.moe.names import blocks_of

MEAN = "mean:"  # in front of what is logged as a mean over target tokens
LOSS_SETTINGS = tuple(
    each.name
    for each in fields(StratifiedRoutingConfig)
    if each.name not in {plain.name for plain in fields(LabelSmoothedCrossEntropyCriterionConfig)}
)


@register_criterion("stratified_routing", dataclass=StratifiedRoutingConfig)
class StratifiedRoutingCriterion(LabelSmoothedCrossEntropyCriterion):
    """Translation loss + alpha * sample_size * (mean over the model's blocks of the block's balance loss).

    Other losses that blocks name are added in the same way, each with the setting NAME_weight. What concerns all blocks
    together the model's system computes (``System.model_loss``): the budget of conditional routing.

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
        **losses: float,
    ) -> None:
        """``losses``: settings of ``StratifiedRoutingConfig`` for the losses of routing; its defaults for those not given.

        Raises:
            UserError: a setting that makes no sense.
        """
        known = {each.name: each for each in fields(StratifiedRoutingConfig) if each.name in LOSS_SETTINGS}
        unknown = losses.keys() - known.keys()
        if unknown:
            raise TypeError(f"unknown settings of the criterion: {', '.join(sorted(unknown))}")
        self.options = SimpleNamespace(**{name: losses.get(name, each.default) for name, each in known.items()})
        plain = {"label_smoothing": label_smoothing, "ignore_prefix_size": ignore_prefix_size}
        check_values("criterion", plain | vars(self.options), StratifiedRoutingConfig)
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.directions: tuple[str, ...] = tuple(task.directions)

    @classmethod
    def build_criterion(cls, cfg: Any, task: FairseqTask) -> StratifiedRoutingCriterion:
        """As fairseq's, which cannot name settings that are not known before the systems are."""
        plain = {
            name: cfg[name] for name in ("sentence_avg", "label_smoothing", "ignore_prefix_size", "report_accuracy")
        }
        return cls(task, **plain, **{name: cfg[name] for name in LOSS_SETTINGS})

    def forward(
        self, model: nn.Module, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss (sum over target tokens), the sample size that divides it, and sums for logging.

        `sample`: a batch of ours. Its counts (`ntokens`, `nsentences`) may be float64 scalars on the device.
        """
        self.request_losses(model)
        net_output = model(**sample["net_input"])
        loss_BT, nll_BT = self.compute_loss(model, net_output, sample, reduce=False)
        nll_loss, loss = nll_BT.sum(), loss_BT.sum()
        sentences = sample.get("nsentences", sample["target"].size(0))  # without rows of nothing but padding
        sample_size = sentences if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.detach(),
            "nll_loss": nll_loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sample_size,
        }
        blocks = [*net_output[1]["encoder_routing"], *net_output[1]["decoder_routing"]]
        if blocks:
            losses, logged = self._routing_losses(model, blocks)
            logging_output |= {f"{MEAN}{name}": _times(sample_size, value) for name, value in logged.items()}
            routing = dict(zip(blocks_of(model), blocks, strict=True))
            logging_output |= routing_sums(routing, sample["direction"], self.directions)
            if model.training:
                for name, value in losses.items():
                    loss = loss + _times(self._weight(model, name) * sample_size, value)
        if not model.training:
            logging_output |= self._direction_sums(nll_BT, sample)
        return loss, sample_size, logging_output

    def compute_loss(
        self, model: nn.Module, net_output: Any, sample: Mapping[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As fairseq's, which holds several copies of the logits: (loss, negative log-likelihood), their sums or [B * T]."""
        logits_BTV, target_BT = net_output[0], cast(Any, model).get_targets(sample, net_output)
        if self.ignore_prefix_size > 0:
            logits_BTV, target_BT = logits_BTV[:, self.ignore_prefix_size :], target_BT[:, self.ignore_prefix_size :]
        logits_NV = logits_BTV.reshape(-1, logits_BTV.size(-1))
        loss_N, nll_N = smoothed_loss(logits_NV, target_BT.reshape(-1), self.eps, self.padding_idx)
        return (loss_N.sum(), nll_N.sum()) if reduce else (loss_N, nll_N)

    def _routing_losses(
        self, model: nn.Module, blocks: Sequence[Routing]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(losses by name, each to be weighted; what is logged)."""
        losses = {name: torch.stack([block.losses[name] for block in blocks]).mean() for name in blocks[0].losses}
        logged = {f"{name}_loss": value.detach() for name, value in losses.items()}
        system = cast(System, model.system)
        if system.model_loss is not None:
            found = system.model_loss(blocks, self.options)
            losses |= found.losses
            logged |= {name: value.detach() for name, value in found.logged.items()}
        return losses, logged

    def routing_loss(self, model: nn.Module, blocks: Sequence[Routing]) -> Tensor:
        """The weighted sum of the losses of these blocks, for a loss that is a mean over target tokens."""
        losses, _ = self._routing_losses(model, blocks)
        return torch.stack([self._weight(model, name) * value for name, value in losses.items()]).sum()

    def request_losses(self, model: nn.Module) -> None:
        """Let the gates compute those that they compute on request alone. UserError where a gate cannot."""
        request = getattr(model, "request_losses", None)  # a model of fairseq's has no gates
        if request is not None:
            request(("z",) if self.options.z_weight else ())

    def _weight(self, model: nn.Module, name: str) -> float:
        """Of the loss of this name. UserError where its system gives it none."""
        weight: float | None = getattr(self.options, f"{name}_weight", None)
        if weight is None and name == "z":
            weight = cast(System, model.system).loss_weights.get(name)
        if weight is None:
            raise UserError(
                f"the loss {name!r} of the MoE blocks has no weight: declare it in loss_weights of its System"
            )
        return weight

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
        """Log what the sums of ranks and updates amount to; losses in bits a token, as fairseq does."""
        if not logging_outputs:
            return
        sums = host_sums(logging_outputs)
        super().reduce_metrics([sums])
        size = sums["sample_size"]
        for key in (key for key in sums if key.startswith(MEAN)):
            metrics.log_scalar(key.removeprefix(MEAN), sums[key] / size, size, priority=290, round=3)
        log_routing(sums)
        for key in (key for key in sums if key.startswith("nll/")):
            direction = key.removeprefix("nll/")
            nll, tokens = sums[key], sums[f"ntokens/{direction}"]
            if tokens:
                metrics.log_scalar(f"nll_loss/{direction}", nll / tokens / math.log(2), tokens, priority=1000, round=3)
                # Of the mean: a mean of perplexities would depend on how sentences are batched and spread over ranks.
                metrics.log_derived(f"ppl/{direction}", partial(perplexity, direction=direction), priority=1000)


def _times(number: float | Tensor, value: Tensor) -> Tensor:
    """The product in the precision of `value`, whether the number is on the host or a float64 scalar on the device."""
    return (number.to(value.dtype) if isinstance(number, Tensor) else number) * value


def perplexity(meters: Mapping[str, Any], direction: str) -> float:
    """Of a direction, from fairseq's meters."""
    return round(2.0 ** min(meters[f"nll_loss/{direction}"].avg, 70), 2)
