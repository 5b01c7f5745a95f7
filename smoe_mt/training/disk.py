"""Which checkpoints a run keeps, and the disk space that they need, which is logged and checked before the first one is written."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from smoe_mt.errors import UserError
from smoe_mt.training.expert_parallel import stack_members

logger = logging.getLogger(__name__)

OPTIMISER_BYTES = 8  # of each trained parameter: two float32 moments, as Adam keeps them


def checkpoint_bytes(model: nn.Module, with_optimiser: bool) -> int:
    """Size of one checkpoint, with the experts of all ranks, but for some kilobytes."""
    weights = {id(parameter): parameter for parameter in model.parameters()}
    members = stack_members(model)
    size = 0
    for key, weight in weights.items():
        numbers = weight.shape[1:].numel() * len(members[key]) if key in members else weight.numel()
        size += numbers * (weight.element_size() + (OPTIMISER_BYTES if with_optimiser and weight.requires_grad else 0))
    return size


def kept_checkpoints(cfg: Any) -> dict[str, int | None]:
    """What is kept -> how many at most; None: no end to them."""
    kept: dict[str, int | None] = {}
    settings, validates = cfg.checkpoint, not cfg.dataset.disable_validation
    if settings.no_save:
        return kept
    if not settings.no_last_checkpoints:
        kept["the last"] = 1
    if validates:
        kept["the best"] = 1
        if settings.keep_best_checkpoints > 0:
            kept["the best few"] = settings.keep_best_checkpoints
    if settings.save_interval_updates > 0:
        kept[f"one each {settings.save_interval_updates:,} updates"] = _by_updates(cfg)
    if not settings.no_epoch_checkpoints:
        kept["one an epoch"] = settings.keep_last_epochs if settings.keep_last_epochs > 0 else None
    return kept


def _by_updates(cfg: Any) -> int | None:
    every, newest, last = (
        cfg.checkpoint.save_interval_updates,
        cfg.checkpoint.keep_interval_updates,
        cfg.optimization.max_update,
    )
    all_of_them = last // every if last > 0 else None
    if newest <= 0 or cfg.checkpoint.keep_interval_updates_pattern > 0:
        return all_of_them
    return newest if all_of_them is None else min(newest, all_of_them)


def check_room(cfg: Any, model: nn.Module) -> None:
    """Log what will be kept and its size. UserError if the disk is too small for checkpoints whose number is limited."""
    kept = kept_checkpoints(cfg)
    if not kept:
        return
    size = checkpoint_bytes(model, not cfg.checkpoint.no_save_optimizer_state)
    total = size * sum(count or 0 for count in kept.values())
    folder = cfg.checkpoint.save_dir
    parts = ", ".join(f"{name}" if count == 1 else f"{name} ({count or 'all'})" for name, count in kept.items())
    endless = "" if all(kept.values()) else ", and more without end (checkpoint.keep_last_epochs limits them)"
    free = shutil.disk_usage(folder).free
    logger.info(
        f"checkpoints kept in {folder}: {parts}; {readable(size)} each, {readable(total)} in all{endless}; "
        f"{readable(free)} free"
    )
    # A checkpoint is written before the one that it replaces is removed.
    there = (*Path(folder).glob("checkpoint*.pt"), *Path(folder).glob("shards_*/*"))
    needed = total + size - _bytes_of(there)
    if needed > free:
        raise UserError(
            f"{folder}: the checkpoints need {readable(needed)} and {readable(free)} are free; keep fewer "
            "(checkpoint.keep_interval_updates), or choose another checkpoint.save_dir"
        )


def _bytes_of(files: Iterable[Path]) -> int:
    return sum(os.path.getsize(file) for file in files)


def readable(size: float) -> str:
    """Bytes for people: 11.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
