"""How a training ended, in a line for people: why, after what, its best model, and what to do with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.names import BEST, LAST
from smoe_mt.training.console import ENDED
from smoe_mt.training.jobs import best_score, early_stopping_state


def closing(trainer: Any, seconds: float, begun_at: int) -> str:
    """The line. `seconds` of this process, which began after `begun_at` updates."""
    cfg, updates = trainer.cfg, trainer.get_num_updates()
    now = f", {updates - begun_at:,} of them now" if begun_at else ""
    return f"{ENDED}{_reason(trainer)}): {updates:,} updates{now}, {seconds:.0f} s{_best(cfg)}{_next(cfg)}"


def _reason(trainer: Any) -> str:
    """The setting that ended it, in the order in which fairseq looks."""
    optimization, patience = trainer.cfg.optimization, trainer.cfg.checkpoint.patience
    if 0 < optimization.max_update <= trainer.get_num_updates():
        return f"optimization.max_update={optimization.max_update}"
    if 0 < optimization.stop_time_hours < trainer.cumulative_training_time() / 3600:
        return f"optimization.stop_time_hours={optimization.stop_time_hours:g}"
    if 0 < patience <= early_stopping_state().get("num_runs", 0):
        return f"checkpoint.patience={patience}: as many validations were no better"
    if trainer.get_lr() <= optimization.stop_min_lr:
        return f"optimization.stop_min_lr={optimization.stop_min_lr:g}"
    return f"optimization.max_epoch={optimization.max_epoch}"


def _best(cfg: Any) -> str:
    best = best_score()
    return "" if best is None else f"; best {cfg.checkpoint.best_checkpoint_metric} in validation {best:g}"


def _next(cfg: Any) -> str:
    folder = Path(cfg.checkpoint.save_dir)
    found = next((path for path in (folder / BEST, folder / LAST) if path.is_file()), None)
    return f", {found}; next: smoe-mt evaluate {shlex.quote(str(folder))}" if found else ""
