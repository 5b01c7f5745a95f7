"""Hidden units and visits as an evaluation measures them, and results of another routing than in training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from smoe_mt import cli
from smoe_mt.evaluation.measured import measured_blocks
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.generation import Decoding, LoadedModel, RoutingOptions, Translator
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.scores_file import ROUTING, unusual
from tests.conftest import TrainedRun

CORPUS = Corpus("aa-en", ("da", "", "na du"), ("da", "", "na"), ("da", "", "na du"))


@pytest.mark.parametrize(
    ("options", "visits", "units"),
    [({}, None, None), ({"capacity": "bias=20"}, 2, 256), ({"capacity": "visits=1"}, 1, 128)],
)
def test_means_are_those_of_the_routing_in_force(
    trained_run: TrainedRun, options: dict[str, Any], visits: float | None, units: float | None
) -> None:
    translator = Translator.from_pretrained(trained_run.folder, device="cpu", routing=RoutingOptions(**options))
    found = measured_blocks(translator, [CORPUS], Decoding())
    assert found is not None and found["sentences"] == 2, "empty lines are translated by nothing"
    task = translator.loaded.task
    lengths = [len(task.encode(line, "en")) - side for side in (0, 1) for line in ("da", ("na du", "na")[side])]
    assert found["context"] == round(sum(length**2 for length in lengths) / sum(lengths))
    assert set(found["blocks"]) == {"encoder.layers.1", "decoder.layers.1"} and "weak_blocks" not in found
    for one in found["blocks"].values():
        assert visits is None or (one["visits"], one["units"]) == (visits, units)
        assert one["units"] == pytest.approx(128 * one["visits"]), "two experts of 64 units at every visit"


def test_the_weak_pass_is_measured_beside_the_strong_one(trained_run: TrainedRun) -> None:
    translator = Translator.from_pretrained(trained_run.folder, device="cpu")
    found = measured_blocks(translator, [CORPUS], Decoding(contrast=0.5)) or {}
    assert all(one["units"] == pytest.approx(64 * one["visits"]) for one in found["weak_blocks"].values())
    assert found["blocks"] == (measured_blocks(translator, [CORPUS], Decoding()) or {})["blocks"]


def test_an_ensemble_is_not_measured(trained_run: TrainedRun) -> None:
    both = Translator.from_pretrained([trained_run.folder, trained_run.folder / "checkpoint_last.pt"], device="cpu")
    assert measured_blocks(both, [CORPUS], Decoding()) is None


@pytest.mark.parametrize("options", [["--contrast", "0.5"], ["--test-top-k", "1"], ["--capacity", "mean=1.5"]])
def test_a_run_that_cannot_route_so_is_refused_before_another_is_translated_with(
    trained_run: TrainedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    for name in ("sparse", "dense"):
        (tmp_path / name).mkdir()
        shutil.copy(trained_run.folder / "checkpoint_best.pt", tmp_path / name)

    def load(path: Path, *settings: Any) -> LoadedModel:
        loaded = load_model(path, *settings)
        loaded.config.model.moe = "none" if path.parent.name == "dense" else loaded.config.model.moe
        return loaded

    monkeypatch.setattr("smoe_mt.evaluation.command.load_model", load)
    runs = [str(tmp_path / name) for name in ("sparse", "dense")]
    assert cli.main(["evaluate", *runs, "--device", "cpu", *options]) == cli.EXIT_USER_ERROR
    err = capsys.readouterr().err
    assert f"dense/checkpoint_best.pt: {options[0]}" in err and "translating" not in err


def test_another_routing_has_a_folder_and_a_mark_of_its_own(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint_best.pt").symlink_to(trained_run.folder / "checkpoint_best.pt")
    command = ["evaluate", str(run), "--directions", "aa-en", "--limit", "2", "--beam", "1", "--device", "cpu"]
    for options in ([], ["--capacity", "bias=-20"], ["--test-top-k", "1"], ["--contrast", "0.5"]):
        assert cli.main([*command, *options]) == 0
    names = {path.name.removeprefix("test.aa-en.first-2.beam-1") for path in (run / "evaluation").iterdir()}
    assert names == {"", ".capacity-bias--20", ".test_top_k-1", ".contrast-0.5"}
    found = [json.loads(path.read_text()) for path in sorted((run / "evaluation").glob("*/scores.json"))]
    marks = {unusual(scores, ROUTING) for scores in found}
    assert marks == {"", "capacity bias=-20", "top-k in the test 1", "contrast 0.5"}
    assert all(scores["measured"]["blocks"] for scores in found)
    assert "beam 1, capacity bias=-20, PARTIAL" in capsys.readouterr().out
    own = [*command, "--out", str(run / "evaluation" / "test.aa-en.first-2.beam-1")]
    assert cli.main([*own, "--test-top-k", "1"]) == 2
    assert "is of another test_top_k and would be replaced" in capsys.readouterr().err
