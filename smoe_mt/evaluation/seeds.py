"""Runs that differ in nothing but their seed: one column of a table, with mean and spread."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from smoe_mt.evaluation.result import Evaluation

# What makes a training what it is; the other parts say where it ran and what it wrote.
PARTS = ("model", "task", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset")
NO_PART_OF_IT = {"task": ("seed", "data"), "dataset": ("num_workers", "num_workers_valid", "data_buffer_size")}


def setting_of(config: DictConfig, updates: int) -> str:
    """A fingerprint of how a checkpoint was trained, seed and places aside: equal for runs that differ only there."""
    content: dict[str, Any] = {"updates": updates}
    for part in PARTS:
        settings = OmegaConf.to_container(config[part], enum_to_str=True) if config.get(part) is not None else None
        if isinstance(settings, dict):
            settings = {key: value for key, value in settings.items() if key not in NO_PART_OF_IT.get(part, ())}
        content[part] = settings
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Seeds:
    """Evaluations of runs that differ only in their seed; or a single one."""

    name: str
    members: tuple[Evaluation, ...]


def by_setting(evaluations: Sequence[Evaluation]) -> list[Seeds]:
    """The evaluations, those that differ only in their seed together, in the order of the first of each."""
    groups: dict[Any, list[Evaluation]] = {}
    for place, evaluation in enumerate(evaluations):
        setting, seed = evaluation.details.get("setting"), evaluation.details.get("seed")
        same_seed = any(one.details.get("seed") == seed for one in groups.get(setting, ()))
        groups.setdefault(place if setting is None or same_seed else setting, []).append(evaluation)
    return [Seeds(_name(members), tuple(members)) for members in groups.values()]


def _name(members: Sequence[Evaluation]) -> str:
    if len(members) == 1:
        return members[0].name
    seeds = ",".join(str(one.details.get("seed")) for one in members)
    common = []
    for parts in zip(*(one.name.split("/") for one in members)):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return f"{'/'.join(common)} seeds {seeds}".strip()


def mean_and_spread(values: Sequence[float], decimals: int) -> str:
    """One value as it is; of several the mean and the standard deviation (n - 1 in its denominator)."""
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ±{statistics.stdev(values):.{decimals}f}"
