"""A training that is started again after it had ended: it says so and makes no further update."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import open_dict

from smoe_mt.library_messages import TRAINING_DONE

logger = logging.getLogger(__name__)

NO_EPOCH = -1  # as the last epoch
FAIRSEQ = logging.getLogger("fairseq_cli.train")


def stop_if_finished(cfg: Any, updates: int, epoch: int, hours: float, without_better: int) -> None:
    """See whether a training that goes on from a checkpoint has reached its end; fairseq would make one more update.

    cfg: the whole configuration, whose last epoch is then set to none.
    updates, hours: made and spent before.
    epoch: the next one to train, or to go on with.
    without_better: validations since the best one.
    """
    FAIRSEQ.removeFilter(_without_duration)  # of the job before, in a multirun
    reached = {
        "optimization.max_update": 0 < cfg.optimization.max_update <= updates,
        "optimization.max_epoch": 0 < cfg.optimization.max_epoch < epoch,
        "optimization.stop_time_hours": 0 < cfg.optimization.stop_time_hours < hours,
        "checkpoint.patience": 0 < cfg.checkpoint.patience <= without_better,
    }
    ended = [name for name, is_reached in reached.items() if is_reached]
    if not ended:
        return
    values = ", ".join(f"{name}={_value(cfg, name)}" for name in ended)
    logger.warning(
        f"this training is already finished, after {updates:,} updates ({values}): to go on, give a larger "
        f"{' and '.join(ended)}; for another training, another checkpoint.save_dir"
    )
    FAIRSEQ.addFilter(_without_duration)
    with open_dict(cfg):
        cfg.optimization.max_epoch = NO_EPOCH


def _value(cfg: Any, name: str) -> str:
    group, _, setting = name.partition(".")
    return f"{cfg[group][setting]:,}"


def _without_duration(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(TRAINING_DONE)
