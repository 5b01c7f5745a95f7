"""The verb ``evaluate`` on a real tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sacrebleu

from smoe_mt import cli
from smoe_mt.generation import Translator
from tests.conftest import TrainedRun

DIRECTIONS = ["aa-en", "en-aa", "bb-en", "en-bb"]


def test_every_direction_of_the_split(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["evaluate", str(trained_run.folder), "--out", str(out), "--samples", "2", "--device", "cpu"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["directions"]) == DIRECTIONS
    assert scores["split"] == "test" and scores["beam"] == 5 and scores["versions"]["sacrebleu"]
    assert scores["seed"] == 1 and scores["benchmark"] == "toy" and scores["classes"] == {} and scores["setting"]
    assert scores["checkpoint"] == str(trained_run.folder / "checkpoint_best.pt")
    table = capsys.readouterr().out
    assert all(direction in table for direction in DIRECTIONS) and table.count("reference ") == 2
    chrfs = [entry["chrf"] for entry in scores["directions"].values()]
    assert scores["mean"]["chrf"] == pytest.approx(sum(chrfs) / 4)


def test_scores_are_those_of_the_kept_hypotheses(trained_run: TrainedRun, tmp_path: Path) -> None:
    cli.main(["evaluate", str(trained_run.folder), "--out", str(tmp_path), "--directions", "en-bb", "--device", "cpu"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    entry = scores["directions"]["en-bb"]
    references = (trained_run.data / "text" / "test.bb-en.bb").read_text().splitlines()
    sources = (trained_run.data / "text" / "test.bb-en.en").read_text().splitlines()
    hypotheses = (tmp_path / "hypotheses" / "en-bb.hyp").read_text().splitlines()
    assert hypotheses == Translator.from_pretrained(trained_run.folder, device="cpu").translate(sources, "en", "bb")
    assert entry["sentences"] == len(references) == 20
    assert entry["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score)
    assert entry["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references], word_order=2).score)
    copied = scores["baselines"]["copy"]["directions"]["en-bb"]
    assert copied["chrf"] == pytest.approx(sacrebleu.corpus_chrf(sources, [references], word_order=2).score)
    assert scores["mean_to_en"] is None


def test_results_lie_in_the_run_folder(trained_run: TrainedRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run.folder / "checkpoint_best.pt", run)
    options = ["--split", "valid", "--limit", "3", "--beam", "1", "--device", "cpu"]
    assert cli.main(["evaluate", str(run), *options]) == 0
    scores = json.loads((run / "evaluation" / "valid" / "scores.json").read_text())
    assert {entry["sentences"] for entry in scores["directions"].values()} == {3}


def test_several_runs_side_by_side(trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = trained_run.folder / "checkpoint_last.pt"
    options = ["--out", str(tmp_path), "--limit", "2", "--directions", "aa-en,en-aa", "--device", "cpu"]
    assert cli.main(["evaluate", str(trained_run.folder), str(last), *options]) == 0
    assert sorted(path.parent.name for path in tmp_path.rglob("scores.json")) == ["checkpoint_last", "run"]
    assert capsys.readouterr().out.count("chrF++") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test_udhr"], "test, valid"),
        (["--directions", "aa-xx"], "unknown direction 'aa-xx': the model knows aa-en, en-aa, bb-en, en-bb"),
        (["--limit", "0"], "--limit 0: it must be 1 or more"),
        (["--beam", "0"], "beam is 0"),
    ],
)
def test_what_cannot_be_evaluated(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main(["evaluate", str(trained_run.folder), *options, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error or set(message.split(", ")) <= set(error.replace(",", " ").split())
