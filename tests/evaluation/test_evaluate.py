"""The verb ``evaluate`` on a real tiny model."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch

from smoe_mt import cli
from smoe_mt.evaluation import evaluate as evaluation
from smoe_mt.evaluation.identity import made_from
from smoe_mt.evaluation.ranks import Ranks
from smoe_mt.generation import Decoding, Text, Translation, Translator
from tests.conftest import TrainedRun

ANOTHER = {"contrast_alpha": 0.2, "contrast_encoder": True}
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
    options = ["--split", "valid", "--directions", "aa-en", "--device", "cpu"]
    assert cli.main(["evaluate", str(run), *options]) == 0
    assert [path.name for path in (run / "evaluation").iterdir()] == ["valid.aa-en"]


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
        (["--directions", "aa-xx"], "unknown language 'xx': the model knows aa, bb, en"),
        (["--directions", "aaen"], "unknown direction 'aaen': the model knows aa-en, en-aa, bb-en, en-bb"),
        (["--limit", "0"], "argument --limit: '0' must be a whole number from 1"),
        (["--beam", "0"], "argument --beam: '0' must be"),
        (["--processes", "0"], "argument --processes: '0' must be"),
        (["--out", "/dev/null/x"], "/dev/null/x: cannot be written (Not a directory)"),
        (["--metrics", "bleu", "ter"], "unknown metric 'ter': there are bleu, chrf"),
        (["--compare"], "--compare needs two runs or more"),
        (["--compare", "--resamples", "0"], "argument --resamples: '0' must be"),
        (["--source", "x", "--direction", "aa-en"], "belong together: --reference missing"),
        (
            ["--direction", "aa-en"],
            "--source and --reference missing; to choose directions of a split, use --directions",
        ),
        (
            ["--source", "x", "--reference", "y", "--direction", "aa-en"],
            "x: no such file",
        ),
        (["--source", "x", "--reference", "y", "--direction", "aa-en", "--split", "test"], "leave out --split"),
    ],
)
def test_what_cannot_be_evaluated(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main(["evaluate", str(trained_run.folder), *options, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error or set(message.split(", ")) <= set(error.replace(",", " ").split())


def test_finished_hypotheses_are_not_made_again(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", str(trained_run.folder), "--out", str(tmp_path), "--limit", "3", "--device", "cpu"]
    assert cli.main([*command, "--directions", "aa-en"]) == 0
    translated = []
    translate = Translator.translate_together

    def watched(self: Translator, texts: list[Text], *arguments: Any, **options: Any) -> list[list[Translation]]:
        translated.extend(f"{text.source}-{text.target}" for text in texts)
        return translate(self, texts, *arguments, **options)

    monkeypatch.setattr(Translator, "translate_together", watched)
    assert cli.main([*command, "--directions", "aa-en", "en-aa", "--metrics", "bleu", "piece_bleu"]) == 0
    assert translated == ["en-aa"]
    assert "1 directions were translated already" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["reused"] == ["aa-en"] and list(scores["metrics"]) == ["bleu", "piece_bleu"]
    assert set(scores["directions"]["aa-en"]) == {"bleu", "piece_bleu", "signatures", "sentences"}
    assert cli.main([*command, "--directions", "aa-en", "en-aa", "--again"]) == 0
    assert translated == ["en-aa", "aa-en", "en-aa"]


def test_text_of_ones_own(trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = trained_run.data / "text"
    files = ["--source", str(text / "valid.aa-en.aa"), "--reference", str(text / "valid.aa-en.en")]
    command = ["evaluate", str(trained_run.folder), "--device", "cpu", "--beam", "1"]
    own, split = tmp_path / "own", tmp_path / "split"
    assert cli.main([*command, *files, "--direction", "aa-en", "--out", str(own)]) == 0
    assert cli.main([*command, "--split", "valid", "--directions", "aa-en", "--out", str(split)]) == 0
    scores, same = (json.loads((folder / "scores.json").read_text()) for folder in (own, split))
    assert scores["directions"] == same["directions"]
    assert scores["split"] is None and scores["source"] == files[1] and scores["benchmark"] is None
    assert f"{files[1]}, beam 1" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(trained_run: TrainedRun, tmp_path: Path) -> None:
    options = ["evaluate", str(trained_run.folder), "--directions", "aa-en,en-bb", "--device", "cpu", "--out"]
    assert cli.main([*options, str(tmp_path / "one")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "smoe_mt.cli", *options, str(tmp_path / "two")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("split test, beam 5") == 1, "only the first process speaks"
    one, two = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["directions"] == two["directions"]
    for direction in ("aa-en", "en-bb"):
        files = [tmp_path / name / "hypotheses" / f"{direction}.hyp" for name in ("one", "two")]
        assert files[0].read_text() == files[1].read_text()


def test_interrupted_between_windows_what_was_translated_is_kept(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", str(trained_run.folder), "--out", str(tmp_path), "--limit", "3", "--device", "cpu"]
    monkeypatch.setattr(evaluation, "WINDOW", 6)
    calls = []
    translate = Translator.translate_together

    def interrupted(self: Translator, texts: list[Text], *arguments: Any, **options: Any) -> list[list[Translation]]:
        calls.append([f"{text.source}-{text.target}" for text in texts])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return translate(self, texts, *arguments, **options)

    monkeypatch.setattr(Translator, "translate_together", interrupted)
    assert cli.main(command) == cli.EXIT_INTERRUPTED
    assert cli.main(command) == 0
    assert calls == [DIRECTIONS[:2], DIRECTIONS[2:], DIRECTIONS[2:]]


def test_shared_out_to_the_cores(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smoe_mt.generation.translator.SHORTEST_BATCH", 100)
    command = ["evaluate", str(trained_run.folder), "--device", "cpu"]
    assert cli.main([*command, "--processes", "1", "--out", str(tmp_path / "1")]) == 0
    one = capsys.readouterr().out
    assert cli.main([*command, "--processes", "2", "--out", str(tmp_path / "2")]) == 0
    assert capsys.readouterr().out == one.replace(str(tmp_path / "1"), str(tmp_path / "2"))
    for path in (tmp_path / "1" / "hypotheses").glob("*.tsv"):
        assert (tmp_path / "2" / "hypotheses" / path.name).read_text() == path.read_text()
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("1", "2")]
    assert scores[0]["directions"] == scores[1]["directions"] and scores[0]["baselines"] == scores[1]["baselines"]


def test_compared(trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = trained_run.folder / "checkpoint_last.pt"
    options = ["--out", str(tmp_path), "--beam", "1", "--directions", "aa-en,en-aa", "--device", "cpu"]
    command = ["evaluate", str(trained_run.folder), str(last), "--compare", "--resamples", "100"]
    assert cli.main([*command, *options]) == 0
    assert "checkpoint_last (update 60) against run (update 60)" in capsys.readouterr().out
    (content,) = json.loads((tmp_path / "comparison.json").read_text())["comparisons"]
    assert content["baseline"] == "run" and set(content["checkpoints"]) == {"run", "checkpoint_last"}
    entries = {(one["metric"], one["direction"]): one for one in content["tests"]}
    assert set(entries) == {(m, d) for m in ("bleu", "chrf") for d in ("aa-en", "en-aa", "all sentences")}
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("run", "checkpoint_last")]
    first, second = (each["directions"]["aa-en"]["chrf"] for each in scores)
    assert entries["chrf", "aa-en"]["delta"] == pytest.approx(second - first)


def test_an_exported_model_on_text_of_ones_own(trained_run: TrainedRun, tmp_path: Path) -> None:
    exported, out = tmp_path / "exported", tmp_path / "out"
    assert cli.main(["export", str(trained_run.folder), str(exported)]) == 0
    text = trained_run.data / "text"
    files = ["--source", str(text / "test.aa-en.aa"), "--reference", str(text / "test.aa-en.en")]
    options = ["--direction", "aa-en", "--beam", "1", "--metrics", "bleu,piece_bleu", "--device", "cpu"]
    assert cli.main(["evaluate", str(exported), *files, *options, "--out", str(out)]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["directions"]["aa-en"]["sentences"] == 20 and scores["seed"] is None


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Decoding)])
def test_hypotheses_of_another_search_are_not_reused(field: str, trained_run: TrainedRun) -> None:
    translator = Translator.from_pretrained(trained_run.folder, device="cpu")
    usual = Decoding(contrast=0.3 if field.startswith("contrast_") else None)
    other = dataclasses.replace(usual, **{field: ANOTHER.get(field, 1 + (getattr(usual, field) or 0))})
    made = [made_from(translator, decoding, Ranks()) for decoding in (usual, other)]
    assert made[0] != made[1] and made[0] == made_from(translator, dataclasses.replace(usual), Ranks())


@pytest.fixture
def run_copy(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """A run folder with both of its checkpoints, without evaluations."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        shutil.copy(trained_run.folder / name, folder)
    return folder


def scores_of(run: Path, result: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation" / result / "scores.json").read_text())
    return found


def test_a_part_of_the_text_takes_the_place_of_nothing(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(run_copy), "--device", "cpu"]
    assert cli.main(command) == 0
    whole = (run_copy / "evaluation" / "test" / "scores.json").read_bytes()
    capsys.readouterr()
    assert cli.main([*command, "--limit", "2"]) == 0
    assert "split test, beam 5, PARTIAL: first 2 sentences of each direction" in capsys.readouterr().out
    assert cli.main([*command, "--directions", "en-aa", "--beam", "2", "--lenpen", "0.5"]) == 0
    assert "PARTIAL: 1 of 4 directions" in capsys.readouterr().out
    assert (run_copy / "evaluation" / "test" / "scores.json").read_bytes() == whole
    assert scores_of(run_copy, "test.first-2")["left_out"] == {"sentences": 72, "directions": []}
    part = scores_of(run_copy, "test.en-aa.beam-2.lenpen-0.5")
    assert part["left_out"] == {"sentences": 0, "directions": ["aa-en", "bb-en", "en-bb"]}


def test_a_limit_that_leaves_nothing_out_is_not_partial(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run_copy), "--limit", "20", "--device", "cpu"]) == 0
    assert "PARTIAL" not in capsys.readouterr().out
    assert scores_of(run_copy, "test.first-20")["left_out"] == {"sentences": 0, "directions": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "2"], "is of more text (aa-en, en-aa, bb-en) and would be replaced"),
        (["--directions", "aa-en"], "is of more text (en-aa, bb-en, en-bb) and would be replaced"),
        (["--beam", "2"], "is of another beam and would be replaced"),
        (["--tokenize", "char"], "is of another tokenize and would be replaced"),
    ],
)
def test_a_folder_of_ones_own_keeps_the_whole_result(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = ["evaluate", str(run_copy), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(command) == 0
    whole = (tmp_path / "out" / "scores.json").read_bytes()
    assert cli.main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "give another folder with --out" in error
    assert (tmp_path / "out" / "scores.json").read_bytes() == whole


def test_translations_are_known_by_content(run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a copy of the run nor a checkpoint of another name, nor a part of the text, is translated again."""
    assert cli.main(["evaluate", str(run_copy), "--device", "cpu"]) == 0
    copy = tmp_path / "copied"
    shutil.copytree(run_copy, copy)
    for path in copy.glob("*.pt"):
        os.utime(path, (1, 1))
    shutil.copy(copy / "checkpoint_best.pt", copy / "checkpoint_7.pt")
    untouched = Translator.translate_together

    def nothing_new(self: Translator, texts: list[Text], *arguments: Any, **options: Any) -> list[list[Translation]]:
        assert not texts
        return untouched(self, texts, *arguments, **options)

    monkeypatch.setattr(Translator, "translate_together", nothing_new)
    assert cli.main(["evaluate", str(copy), "--device", "cpu"]) == 0
    assert cli.main(["evaluate", str(copy / "checkpoint_7.pt"), "--device", "cpu"]) == 0
    assert cli.main(["evaluate", str(copy), "--directions", "en-bb", "--device", "cpu"]) == 0
    assert scores_of(copy, "test.en-bb")["directions"]["en-bb"] == scores_of(copy, "test")["directions"]["en-bb"]
    hypotheses = [copy / "evaluation" / name / "hypotheses" / "en-bb.hyp" for name in ("test", "test.en-bb")]
    assert hypotheses[0].read_bytes() == hypotheses[1].read_bytes()


def test_metrics_of_the_same_hypotheses_stay(run_copy: Path) -> None:
    command = ["evaluate", str(run_copy), "--device", "cpu", "--directions", "aa-en"]
    assert cli.main(command) == 0
    first = scores_of(run_copy, "test.aa-en")
    assert cli.main([*command, "--metrics", "piece_bleu"]) == 0
    second = scores_of(run_copy, "test.aa-en")
    assert set(second["metrics"]) == {*first["metrics"], "piece_bleu"}
    entry = second["directions"]["aa-en"]
    assert entry["bleu"] == first["directions"]["aa-en"]["bleu"] and "piece_bleu" in entry["signatures"]
    assert second["mean"]["chrf"] == first["mean"]["chrf"] and second["mean"]["piece_bleu"] == entry["piece_bleu"]


def test_a_comparison_says_what_is_unfinished_and_unequal(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    state = torch.load(run_copy / "checkpoint_best.pt", weights_only=False)
    state["optimizer_history"][-1]["num_updates"] = 30
    torch.save(state, other / "checkpoint_best.pt")
    state["optimizer_history"][-1]["num_updates"] = 40
    torch.save(state, other / "checkpoint_last.pt")
    command = ["evaluate", str(run_copy), str(other), "--compare", "--resamples", "100", "--beam", "1"]
    assert cli.main([*command, "--limit", "3", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "other (update 30) against run (update 60)" in out
    for line in (
        "unfinished: other; scores can change until the training has come to its end",
        "older than its run: other is of update 30, and checkpoint_last.pt of update 40",
        "unequal updates: run 60, other 30",
    ):
        assert line in out.splitlines()
    assert "at 60 of 60, finished" in out and "at 40 of 60, unfinished" in out
    file = run_copy / "evaluation" / "test.first-3.beam-1" / "comparison.json"
    (content,) = json.loads(file.read_text())["comparisons"]
    assert content["updates"] == {"run": 60, "other": 30}
    assert content["partial"] == "first 3 sentences of each direction" and len(content["remarks"]) == 3


def test_zero_shot_on_sentences_that_share_their_english(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(trained_run.data, data)
    english = (data / "text" / "test.aa-en.en").read_text().splitlines()
    backwards = [" ".join(line.split()[::-1]) for line in english]
    (data / "text" / "test.bb-en.en").write_text("".join(f"{line}\n" for line in english[::-1]))
    (data / "text" / "test.bb-en.bb").write_text("".join(f"{line}\n" for line in backwards[::-1]))
    command = ["evaluate", str(trained_run.folder), "--data", str(data), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--directions", "aa-bb,aa-en", "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count("warning: aa-bb is zero-shot") == 1
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["zero_shot"] == ["aa-bb"] and list(scores["directions"]) == ["aa-en", "aa-bb"]
    rows = (tmp_path / "out" / "hypotheses" / "aa-bb.tsv").read_text().splitlines()[1:]
    sides = [(source, reference) for source, _, reference in (row.split("\t") for row in rows)]
    assert sides == list(zip(english, backwards)), "aa copies English, bb reverses it"


def test_zero_shot_without_text_is_refused(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(trained_run.folder), "--directions", "aa-bb", "--device", "cpu"]) == 2
    assert "test has no text for aa-bb, nor English sentences that aa and bb have both" in capsys.readouterr().err
