"""The batch of an update, stated in tokens and spread over the ranks at hand.

A config says how many tokens an update takes (`task.tokens_per_update`), whatever it runs on; how many batches each rank
gathers for it (fairseq's `optimization.update_freq`) is known only once the ranks have found each other.
"""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import open_dict

from smoe_mt.errors import UserError

logger = logging.getLogger(__name__)

NEAR = 0.05  # a batch within this share of what was asked needs no warning


def update_freq_for(tokens_per_update: int, max_tokens: int, ranks: int) -> int:
    """Batches that each rank gathers for an update of about `tokens_per_update` tokens; at least 1."""
    return max(1, round(tokens_per_update / (max_tokens * ranks)))


def spread_over_ranks(cfg: Any) -> None:
    """Set `optimization.update_freq` of a run from its `task.tokens_per_update`, and log the batch; 0 leaves all as it is.

    Raises:
        UserError: tokens_per_update together with an update_freq, or without max_tokens.
    """
    wanted = getattr(cfg.task, "tokens_per_update", 0)
    if not wanted:
        return
    if list(cfg.optimization.update_freq) != [1]:
        raise UserError(
            f"task.tokens_per_update={wanted} sets optimization.update_freq, which is {cfg.optimization.update_freq} "
            "already: give one of the two (task.tokens_per_update=0 leaves update_freq as it is)"
        )
    max_tokens, ranks = cfg.dataset.max_tokens, cfg.distributed_training.distributed_world_size
    if not max_tokens:
        raise UserError(
            f"task.tokens_per_update={wanted} needs dataset.max_tokens: the tokens of a batch on one device"
        )
    freq = update_freq_for(wanted, max_tokens, ranks)
    with open_dict(cfg):
        cfg.optimization.update_freq = [freq]
    _say(wanted, max_tokens, ranks, freq)


def _say(wanted: int, max_tokens: int, ranks: int, freq: int) -> None:
    got = max_tokens * ranks * freq
    logger.info(
        f"batch: an update takes {got:,} tokens = max_tokens {max_tokens:,} x {ranks} rank{'s' if ranks > 1 else ''} "
        f"x update_freq {freq}"
    )
    if abs(got - wanted) > NEAR * wanted:
        fitting = wanted // (ranks * max(1, -(-wanted // (max_tokens * ranks))))
        logger.warning(f"{wanted:,} tokens an update were requested: set dataset.max_tokens={fitting} to get them")
