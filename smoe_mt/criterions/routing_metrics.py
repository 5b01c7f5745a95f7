"""What routing tells about a batch, as sums that add up over batches and ranks, and the metrics made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor

from smoe_mt.moe import Routing
from smoe_mt.moe.names import SIDES, Block

PREFIX = "routing:"


def routing_sums(routing: Mapping[Block, Routing], direction_B: Tensor, directions: Sequence[str]) -> dict[str, Tensor]:
    """Sums over the batch, all on the batch's device; keys depend on the model and the directions alone.

    routing      of each MoE block, visits [B, T]
    direction_B  int64 [B], index of each sentence's direction
    """
    sums: dict[str, Tensor] = {}
    for side in SIDES:
        blocks = [one for block, one in routing.items() if block.side == side]
        if not blocks:
            continue
        tokens_B = (blocks[0].visits > 0).sum(dim=1)
        visits_B = torch.stack([block.visits for block in blocks]).sum(dim=(0, 2))
        counts = torch.zeros(2, len(directions), dtype=torch.long, device=direction_B.device)
        counts.index_add_(1, direction_B, torch.stack([visits_B, tokens_B * len(blocks)]))
        for name, visits, tokens in zip(directions, *counts.unbind()):
            sums[f"{PREFIX}visits/{side}/{name}"] = visits
            sums[f"{PREFIX}tokens/{side}/{name}"] = tokens
    for block, one in routing.items():
        for number, (load, entropy) in enumerate(zip(one.load, one.entropy), start=1):
            gate = f"{block}/gate{number}"
            sums[f"{PREFIX}asked/{gate}"] = load.asked
            sums[f"{PREFIX}served/{gate}"] = load.served
            tokens = load.tokens.sum()
            sums[f"{PREFIX}gate_tokens/{gate}"] = tokens
            sums[f"{PREFIX}entropy/{gate}"] = entropy * tokens
        for number, measures in enumerate(one.measures, start=1):
            gate = f"{block}/gate{number}"
            for name, mean in measures.items():
                sums[f"{PREFIX}measure/{name}/{gate}"] = mean * sums[f"{PREFIX}gate_tokens/{gate}"]
    return sums


def log_routing(sums: Mapping[str, Any]) -> None:
    """Log the metrics of sums on the host: a few by plain names, the rest by names with a slash (TensorBoard alone shows those)."""
    total = {key.removeprefix(PREFIX): value for key, value in sums.items() if key.startswith(PREFIX)}
    _log_visits(total)
    _log_gates(total)
    _log_measures(total)


def _log_visits(total: Mapping[str, Any]) -> None:
    for side in SIDES:
        visits = tokens = 0.0
        prefix = f"visits/{side}/"
        for key in (key for key in total if key.startswith(prefix)):
            direction = key.removeprefix(prefix)
            v, t = total[key], total[f"tokens/{side}/{direction}"]
            if t:
                metrics.log_scalar(f"rc_{side}/{direction}", v / t, t, priority=1000, round=3)
            visits, tokens = visits + v, tokens + t
        if tokens:
            metrics.log_scalar(f"rc_{side[:3]}", visits / tokens, tokens, priority=300, round=3)


def _log_gates(total: Mapping[str, Any]) -> None:
    asked_all = served_all = 0.0
    for key in (key for key in total if key.startswith("asked/")):
        gate = key.removeprefix("asked/")
        asked_E, served_E = total[key], total[f"served/{gate}"]
        asked, served = sum(asked_E), sum(served_E)
        if not asked:
            continue
        asked_all, served_all = asked_all + asked, served_all + served
        metrics.log_scalar(f"overflow/{gate}", 1 - served / asked, asked, priority=1000, round=4)
        for e, number in enumerate(asked_E, start=1):
            metrics.log_scalar(f"load/{gate}/expert{e}", number / asked, asked, priority=1000, round=4)
        tokens = total[f"gate_tokens/{gate}"]
        entropy = total[f"entropy/{gate}"] / tokens
        metrics.log_scalar(f"gate_entropy/{gate}", entropy, tokens, priority=1000, round=3)
    if asked_all:
        metrics.log_scalar("overflow", 1 - served_all / asked_all, asked_all, priority=310, round=4)


def _log_measures(total: Mapping[str, Any]) -> None:
    """What routers of some systems tell besides: at each gate, and the mean over all gates."""
    sums: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in (key for key in total if key.startswith("measure/")):
        name, _, gate = key.removeprefix("measure/").partition("/")
        tokens = total[f"gate_tokens/{gate}"]
        if tokens:
            metrics.log_scalar(f"{name}/{gate}", total[key] / tokens, tokens, priority=1000, round=4)
            sums[name].append((total[key], tokens))
    for name, pairs in sums.items():
        value, tokens = map(sum, zip(*pairs))
        metrics.log_scalar(name, value / tokens, tokens, priority=305, round=3)
