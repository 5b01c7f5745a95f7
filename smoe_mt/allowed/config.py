"""Checks a whole configuration, given as a config or as flags: each key of the table, then combinations of keys."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from smoe_mt.allowed.keys import GROUPS, KEYS
from smoe_mt.allowed.kinds import Maybe, refusal, shown
from smoe_mt.allowed.overrides import check
from smoe_mt.allowed.validation import check_best_metric, check_end, check_kept
from smoe_mt.errors import UserError
from smoe_mt.ranges import kinds_of, problem, ranges_of

PRECISIONS = ("fp16", "bf16", "amp")
MEMORY_EFFICIENT = ("memory_efficient_fp16", "memory_efficient_bf16")


def check_config(cfg: Any, declared: Mapping[str, type]) -> None:
    """UserError for the first value of a training's configuration that its key does not take, or that others rule out.

    `cfg`: {group: {name: value}}, such as fairseq's; values that are not there or refer to others that are not are left out.
    `declared`: group -> the dataclass of our own settings.
    """
    groups = {group: _plain(cfg, group) for group in GROUPS}
    for group, values in groups.items():
        check_values(group, values, declared.get(group) if _is_own(group, values) else None)
    _check_together(groups)


def _is_own(group: str, values: Mapping[str, Any]) -> bool:
    """Whether a group's settings are those of our own model, task or criterion."""
    prefixes = {"model": "smoe_transformer", "criterion": "stratified_routing"}
    return group in prefixes and str(values.get("_name", prefixes[group])).startswith(prefixes[group])


def check_values(group: str, values: Mapping[str, Any], declared: type | None = None) -> None:
    """UserError for a value of a group ("model") that its key does not take, also of one that is not in the table.

    `declared`: the dataclass of the group, whose fields have types and ranges of their own (options of systems).
    """
    kinds, spans = (kinds_of(declared), ranges_of(declared, {})) if declared else ({}, {})
    for name, value in values.items():
        key = f"{group}.{name}"
        kind = KEYS.get(key)
        if kind is not None:
            check(key, value, kind)
        elif name in kinds:
            if wrong := problem(kinds[name], value, spans.get(name)):
                raise UserError(f"{key}={shown(value)}: it {wrong}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}: it must be a finite number")


def check_flags(values: Mapping[str, Any]) -> None:
    """UserError for a flag of fairseq's command lines whose value is not allowed; `values` by the flags' names, with _."""
    for name, value in values.items():
        if (
            isinstance(value, str) and "${" in value
        ):  # a path, say: OmegaConf would take it for a reference to another setting
            raise UserError(f"--{name.replace('_', '-')} {shown(value)}: it must be text without ${{")
        kind = next((keys[name] for keys in GROUPS.values() if name in keys), None)
        if kind is None or value is None:
            continue
        wrong = refusal(kind.of if isinstance(kind, Maybe) else kind, value)  # a flag cannot say null: it is left out
        if wrong:
            raise UserError(f"--{name.replace('_', '-')} {shown(value)}: it {wrong}")


def _plain(cfg: Any, group: str) -> dict[str, Any]:
    """The values of a group that need no interpolation."""
    from omegaconf import DictConfig, ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    part = cfg.get(group)
    if not isinstance(part, Mapping | DictConfig):
        return {}
    values = {}
    for name in part:
        try:
            value = part[name]
            if isinstance(value, DictConfig | ListConfig):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            if "HydraConfig was not set" in str(error) or OmegaConf.is_missing(part, name):
                continue  # it is known when the training starts, or is still to be given (???)
            raise UserError(_unresolved(f"{group}.{name}", part, name, error)) from error
        values[str(name)] = getattr(value, "value", value)  # fairseq's choices are enums
    return values


def _unresolved(key: str, part: Any, name: Any, error: Exception) -> str:
    """What is wrong with a value that refers to others, or that its dataclass does not take."""
    from omegaconf import OmegaConf

    reason = str(error).partition("\n")[0]
    if not OmegaConf.is_interpolation(part, name):
        return f"{key}: {reason}"
    plain: Any = OmegaConf.to_container(part, resolve=False)
    written = plain[name]
    return f"{key}={shown(written)}: ${{ begins a reference to another setting, and this one leads nowhere ({reason})"


def _check_together(groups: Mapping[str, Mapping[str, Any]]) -> None:
    common = groups["common"]
    # fairseq means a TPU where bf16 is asked for and no GPU is found; `launch_ranks` has the words for that.
    if common.get("tpu") and not common.get("bf16"):
        raise UserError("common.tpu=true: it must be false: trainings run on GPUs and CPUs")
    _check_precision(common, groups["model"])
    _check_optimizer(groups["optimizer"], common)
    _check_batches(groups["dataset"])
    check_model(groups["model"])
    _check_schedule(groups)
    check_best_metric(groups)
    check_kept(groups)
    check_end(groups)
    _check_starting_points(groups["checkpoint"])


def _check_starting_points(checkpoint: Mapping[str, Any]) -> None:
    tuned = checkpoint.get("finetune_from_model")
    if not tuned:
        return
    if checkpoint.get("restore_file") not in (None, "checkpoint_last.pt"):
        raise UserError("checkpoint.restore_file and checkpoint.finetune_from_model: choose one of the two")
    resets = [name for name in checkpoint if str(name).startswith("reset_") and checkpoint[name]]
    if resets:
        raise UserError(
            f"checkpoint.{resets[0]}: checkpoint.finetune_from_model resets all of them by itself; leave it out"
        )


def _check_precision(common: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    chosen = [name for name in PRECISIONS if common.get(name)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(f'common.{name}' for name in chosen)}: choose one of the two")
    half = next((name for name in ("fp16", "memory_efficient_fp16") if common.get(name)), None)
    if half and model.get("cpu_bf16") == "on":
        raise UserError(f"common.{half} and model.cpu_bf16=on are two precisions for one model: leave one of them out")


def _check_optimizer(optimizer: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    flat = next((name for name in MEMORY_EFFICIENT if common.get(name)), None)
    if flat and optimizer.get("_name") == "fused_adam":
        raise UserError(
            f"common.{flat}: optimizer._name=fused_adam needs weights in float32, of which this keeps none; choose "
            f"optimizer._name=adam, or common.{flat.removeprefix('memory_efficient_')}"
        )


def _check_batches(dataset: Mapping[str, Any]) -> None:
    if "max_tokens" in dataset and dataset["max_tokens"] is None and dataset.get("batch_size") is None:
        raise UserError("how large is a batch? give dataset.max_tokens, or dataset.batch_size (sentences)")
    if dataset.get("shard_id", 0) >= dataset.get("num_shards", 1):
        raise UserError(
            f"dataset.shard_id={dataset['shard_id']}: it must be below dataset.num_shards, {dataset.get('num_shards', 1)}"
        )


def check_model(model: Mapping[str, Any]) -> None:
    """UserError for sizes of a model that rule each other out."""
    for side in ("encoder", "decoder"):
        dim, heads = model.get(f"{side}_embed_dim"), model.get(f"{side}_attention_heads")
        if dim and heads and dim % heads:
            raise UserError(
                f"model.{side}_embed_dim={dim} is no multiple of model.{side}_attention_heads={heads}: change one"
            )


def _check_schedule(groups: Mapping[str, Mapping[str, Any]]) -> None:
    schedule, optimization = groups["lr_scheduler"], groups["optimization"]
    warmup = schedule.get("warmup_updates") or 0
    rates = optimization.get("lr") or []
    peak = max(rates) if isinstance(rates, list) and rates else None
    name, end = schedule.get("_name"), optimization.get("max_update") or 0
    if name == "polynomial_decay":
        end = min(end or math.inf, schedule.get("total_num_update", math.inf))
    for lower in ("min_lr", "end_learning_rate"):
        if peak is not None and schedule.get(lower, 0) > peak:
            raise UserError(f"lr_scheduler.{lower}={schedule[lower]:g} is above the peak, optimization.lr={peak:g}")
    if 0 < end <= warmup:
        _warn_once(
            f"lr_scheduler.warmup_updates={warmup:,}: the schedule ends after {end:,} updates, before the learning rate has "
            "reached its peak"
        )


@cache
def _warn_once(message: str) -> None:
    """A configuration is checked at every door that it passes."""
    warnings.warn(message, stacklevel=2)
