"""Checks what a checkpoint contains besides its settings: only the forms that training writes are accepted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoe_mt.checkpoints.settings import REMEDY, is_own, own_settings
from smoe_mt.checkpoints.transformer_settings import transformer_settings
from smoe_mt.errors import UserError
from smoe_mt.ranges import COUNT, Range, problem, shown

EPOCHS = Range(0, 10**9)
#: fairseq's meters, whose names it looks up among all that its module has -> what the state of one must hold.
METERS: Mapping[str, set[str]] = {
    "AverageMeter": {"val", "sum", "count"},
    "SumMeter": {"sum"},
    "TimeMeter": {"init", "n"},
    "StopwatchMeter": {"sum", "n"},
}
#: What our own training adds to the extra state.
COUNTERS: Mapping[str, set[str]] = {"nonfinite": {"total", "in_a_row"}, "early_stopping": {"best", "num_runs"}}
HEX_DIGITS = 64
#: That weights are kept and computed in; not complex, quantised or in 8 bits, which nothing here adds up.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


def checked_state(state: Any, path: Path, foreign: bool = False) -> dict[str, Any]:
    """A checkpoint as it may be used: ``cfg`` in checked plain values, no ``args``, the rest of the form that it should have.

    `foreign`: a transformer of fairseq's is read as well (its settings are those that converting needs). Raises UserError,
    naming file and place, for anything else.
    """
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path}: not a checkpoint of fairseq's; give one that training wrote")
    _check_weights(state["model"], path)
    _check_history(state.get("optimizer_history"), path)
    _check_extra(state.get("extra_state"), path)
    _check_task_state(state.get("task_state"), path)
    if foreign and not is_own(state):
        settings = transformer_settings(state, path)
    else:
        settings = own_settings(state.get("cfg"), state["model"], path)
    return {**state, "args": None, "cfg": settings}


def _check_weights(weights: Mapping[Any, Any], path: Path) -> None:
    for name, tensor in weights.items():
        plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.dtype in DTYPES
        if not (isinstance(name, str) and plain):
            raise UserError(f"{path}: {shown(name)} among its weights is no weight; {REMEDY}")


def _check_history(history: Any, path: Path) -> None:
    if history is None:
        return
    if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
        raise UserError(f"{path}: optimizer_history is no list of dictionaries; {REMEDY}")
    if not history:
        return
    _check(history[-1], "num_updates", int, path, "optimizer_history", COUNT)
    rates = history[-1].get("lr_scheduler_state", {})
    if not isinstance(rates, dict) or not all(_is_number(value) or _are_numbers(value) for value in rates.values()):
        raise UserError(f"{path}: optimizer_history.lr_scheduler_state is no dictionary of numbers; {REMEDY}")


def _check_extra(extra: Any, path: Path) -> None:
    if extra is None:
        return
    _check_dictionary(extra, "extra_state", path)
    for name in ("val_loss", "best", "previous_training_time"):
        _check_measure(extra, name, path)
    averaged = extra.get("averaged", [])
    if not isinstance(averaged, list) or any(problem(str, name) for name in averaged):
        raise UserError(f"{path}: extra_state.averaged is no list of names; {REMEDY}")
    if extra.get("pruned_from") is not None:
        _check(extra, "pruned_from", str, path, "extra_state", COUNT)
    iterator = extra.get("train_iterator")
    if iterator is not None:
        _check_dictionary(iterator, "extra_state.train_iterator", path)
        for name, value in iterator.items():
            kind = bool if isinstance(value, bool) else int
            _check(iterator, name, kind, path, "extra_state.train_iterator", EPOCHS if name == "epoch" else COUNT)
    _check_meters(extra.get("metrics"), path)
    _check_counters(extra.get("smoe_mt"), path)


def _check_measure(extra: Mapping[str, Any], name: str, path: Path) -> None:
    """A number, or a tensor of one; no number where there was nothing to measure, and infinite where a loss was."""
    value = extra.get(name)
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise UserError(f"{path}: extra_state.{name} must be a number, not {shown(value)}; {REMEDY}")
    if isinstance(value, int) and abs(value) > 2**63:
        raise UserError(f"{path}: extra_state.{name} is too large a number; {REMEDY}")


def _check_meters(metrics: Any, path: Path) -> None:
    if metrics is None:
        return
    _check_dictionary(metrics, "extra_state.metrics", path)
    for meters in metrics.values():
        sound = isinstance(meters, list) and all(_is_meter(one) for one in meters)
        if not sound or len({one[1] for one in meters}) < len(meters):
            raise UserError(f"{path}: extra_state.metrics holds what no training measures; {REMEDY}")


def _is_meter(entry: Any) -> bool:
    if not isinstance(entry, (list, tuple)) or len(entry) != 4:
        return False
    priority, name, kind, state = entry
    # A tensor of many numbers is one of those that BLEU is summed up from.
    numbers = isinstance(state, dict) and all(isinstance(one, Tensor) or _is_number(one) for one in state.values())
    named = isinstance(priority, int) and isinstance(name, str) and isinstance(kind, str) and kind in METERS
    return numbers and named and METERS[kind] <= set(state)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(_is_number(value) for value in values)


def _check_counters(ours: Any, path: Path) -> None:
    if ours is None:
        return
    _check_dictionary(ours, "extra_state.smoe_mt", path)
    for name, counters in ours.items():
        _check_dictionary(counters, f"extra_state.smoe_mt.{shown(name)}", path)
        if not (set(counters) <= COUNTERS.get(name, set()) and all(map(_is_number, counters.values()))):
            raise UserError(f"{path}: extra_state.smoe_mt holds what no training counts; {REMEDY}")


def _check_task_state(state: Any, path: Path) -> None:
    if state is None:
        return
    _check_dictionary(state, "task_state", path)
    vocabulary = state.get("vocabulary")
    if vocabulary is None:
        return
    _check_dictionary(vocabulary, "task_state.vocabulary", path)
    for name, kind in (("size", int), ("sha256", str), ("folder", str)):
        _check(vocabulary, name, kind, path, "task_state.vocabulary", COUNT)
    digits = vocabulary["sha256"]
    if len(digits) != HEX_DIGITS or set(digits) - set("0123456789abcdef"):
        raise UserError(f"{path}: task_state.vocabulary.sha256 is no SHA-256; {REMEDY}")


def _check_dictionary(value: Any, where: str, path: Path) -> None:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: {where} is no dictionary of names; {REMEDY}")


def _check(values: Mapping[str, Any], name: str, kind: type, path: Path, where: str, allowed: Range) -> None:
    wrong = problem(kind, values.get(name), allowed)
    if wrong:
        raise UserError(f"{path}: {where}.{name} {wrong}; {REMEDY}")
