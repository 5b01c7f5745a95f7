from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from fairseq.logging import progress_bar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smoe_mt.fairseq_patches import apply

STATS = {"loss": 2.5, "num_updates": 3, "bleu/aa-en": 7.25}


def log(kind: str, caplog: pytest.LogCaptureFixture, tensorboard: Path | None = None) -> str:
    apply()
    bar = progress_bar.progress_bar(
        [0], log_format=kind, log_interval=1, epoch=1, tensorboard_logdir=str(tensorboard) if tensorboard else None
    )
    with caplog.at_level(logging.INFO):
        bar.print(STATS, tag="valid", step=3)
    return caplog.messages[-1]


def test_text_leaves_directions_out(caplog: pytest.LogCaptureFixture) -> None:
    line = log("simple", caplog)
    assert "loss 2.5" in line and "bleu" not in line


def test_json_keeps_them(caplog: pytest.LogCaptureFixture) -> None:
    assert json.loads(log("json", caplog))["valid_bleu/aa-en"] == "7.25"


def test_tensorboard_keeps_them(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    line = log("simple", caplog, tmp_path)
    events = EventAccumulator(str(tmp_path / "valid")).Reload()
    assert events.Scalars("bleu/aa-en")[0].value == 7.25
    assert "bleu" not in line


def test_putting_it_in_place_twice_changes_nothing() -> None:
    apply()
    first = progress_bar.BaseProgressBar._format_stats
    apply()
    assert progress_bar.BaseProgressBar._format_stats is first
