"""BLEU in TensorBoard is what ``smoe-mt evaluate`` says of the same search: one decoder for both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smoe_mt import cli
from tests.conftest import train
from tests.toy import make_toy_folder


def test_validation_bleu_is_that_of_evaluate(tmp_path: Path) -> None:
    data = make_toy_folder(tmp_path / "data")
    curves = ["--eval-bleu", "--eval-bleu-sentences", "0", "--tensorboard-logdir", str(tmp_path / "tensorboard")]
    train(data, tmp_path / "run", "--moe", "stratified", "--strata", "2,2", *curves)
    last = tmp_path / "run" / "checkpoint_last.pt"
    search = ["--split", "valid", "--beam", "1", "--max-len-a", "1.3", "--max-len-b", "10"]
    assert cli.main(["evaluate", str(last), *search, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    events = EventAccumulator(str(tmp_path / "tensorboard" / "valid")).Reload()
    assert scores["mean"]["bleu"] > 0.1
    for direction, entry in scores["directions"].items():
        assert events.Scalars(f"bleu/{direction}")[-1].value == pytest.approx(entry["bleu"], abs=0.006)
    assert events.Scalars("bleu")[-1].value == pytest.approx(scores["mean"]["bleu"], abs=0.011)
