"""Tokens an update, spread over the ranks at hand."""

from __future__ import annotations

import logging

import pytest
from omegaconf import DictConfig, OmegaConf

from smoe_mt.errors import UserError
from smoe_mt.training.batch import spread_over_ranks


def config(wanted: int, max_tokens: int | None, ranks: int = 1, update_freq: int = 1) -> DictConfig:
    cfg = OmegaConf.create(
        {
            "task": {"tokens_per_update": wanted},
            "dataset": {"max_tokens": max_tokens},
            "optimization": {"update_freq": [update_freq]},
            "distributed_training": {"distributed_world_size": ranks},
        }
    )
    OmegaConf.set_struct(cfg, True)
    return cfg


@pytest.mark.parametrize(
    ("wanted", "ranks", "freq"),
    [(13_000, 1, 4), (13_000, 2, 2), (13_000, 4, 1), (65_000, 1, 20), (65_000, 5, 4), (0, 4, 1)],
)
def test_batches_a_rank_gathers(wanted: int, ranks: int, freq: int, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(wanted, 3250, ranks)
    with caplog.at_level(logging.INFO):
        spread_over_ranks(cfg)
    assert cfg.optimization.update_freq == [freq]
    assert (f"an update takes {wanted:,} tokens = max_tokens 3,250 x {ranks} rank" in caplog.text) is (wanted > 0)
    assert "WARNING" not in caplog.text


def test_what_does_not_come_out_is_said_with_what_would(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(13_000, 3250, ranks=8)
    with caplog.at_level(logging.INFO):
        spread_over_ranks(cfg)
    assert cfg.optimization.update_freq == [1] and "an update takes 26,000 tokens" in caplog.text
    assert "set dataset.max_tokens=1625 to" in caplog.text
    again = config(13_000, 1625, ranks=8)
    caplog.clear()
    spread_over_ranks(again)
    assert "WARNING" not in caplog.text


def test_two_ways_of_saying_it_are_refused() -> None:
    with pytest.raises(UserError, match="give one of the two"):
        spread_over_ranks(config(13_000, 3250, update_freq=2))


def test_update_freq_alone_stays() -> None:
    cfg = config(0, 3250, update_freq=2)
    spread_over_ranks(cfg)
    assert cfg.optimization.update_freq == [2]


def test_batches_by_sentences_cannot_be_counted_in_tokens() -> None:
    with pytest.raises(UserError, match="needs dataset.max_tokens"):
        spread_over_ranks(config(13_000, None))
