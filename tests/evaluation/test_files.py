"""What an evaluation leaves behind, and what of it is used again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.errors import UserError
from smoe_mt.evaluation import files
from smoe_mt.evaluation.files import Results, write_comparison
from smoe_mt.evaluation.metrics import Corpus

FIRST = Corpus("nso-en", ("a\tb", "č"), ("x", ""), ("r", "s"))
SECOND = Corpus("en-nso", ("a",), ("y",), ("t",))
MODEL = {"checkpoint": [["best.pt", 3, 7]], "beam": 5}
OTHER = {"checkpoint": [["best.pt", 3, 8]], "beam": 5}


def write(folder: Path, *corpora: Corpus, model: dict[str, Any] = MODEL, again: bool = False) -> None:
    results = Results(folder, model, again)
    for corpus in corpora:
        results.keep(corpus)
    results.finish(corpora, {"directions": {corpus.direction: 1 for corpus in corpora}})


def test_hypotheses_and_a_table_for_people(tmp_path: Path) -> None:
    write(tmp_path / "new", FIRST)
    hypotheses = tmp_path / "new" / "hypotheses"
    assert (hypotheses / "nso-en.hyp").read_text(encoding="utf-8") == "x\n\n"
    assert (hypotheses / "nso-en.tsv").read_text(encoding="utf-8") == (
        "source\thypothesis\treference\na b\tx\tr\nč\t\ts\n"
    )
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == {"directions": {"nso-en": 1}}


def test_hypotheses_are_used_again(tmp_path: Path) -> None:
    Results(tmp_path, MODEL).keep(FIRST)  # interrupted before the scores
    results = Results(tmp_path, MODEL)
    assert results.kept(FIRST.translated(())) == FIRST.hypotheses
    assert results.kept(SECOND.translated(())) is None


@pytest.mark.parametrize("reason", ["checkpoint", "sources", "damage", "missing", "again", "record"])
def test_other_hypotheses_are_not(tmp_path: Path, reason: str) -> None:
    write(tmp_path, FIRST)
    text, model = FIRST.translated(()), MODEL
    if reason == "checkpoint":
        model = OTHER
    elif reason == "sources":
        text = Corpus("nso-en", ("a\tb", "c"), (), ("r", "s"))
    elif reason == "damage":
        (tmp_path / "hypotheses" / "nso-en.hyp").write_text("x\nz\n")
    elif reason == "missing":
        (tmp_path / "hypotheses" / "nso-en.hyp").unlink()
    elif reason == "record":
        (tmp_path / "hypotheses" / "made_from.json").write_text('{"format": 1, ')
    assert Results(tmp_path, model, again=reason == "again").kept(text) is None


def test_an_earlier_evaluation_of_another_model_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, FIRST, SECOND)
    write(tmp_path, SECOND, model=OTHER)
    names = ["en-nso.hyp", "en-nso.tsv", "made_from.json"]
    assert sorted(path.name for path in (tmp_path / "hypotheses").iterdir()) == names


def test_other_directions_of_the_same_model_stay(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    write(tmp_path, SECOND)
    assert Results(tmp_path, MODEL).kept(FIRST) == FIRST.hypotheses


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "hypotheses").mkdir()
    (tmp_path / "hypotheses" / "notes.txt").write_text("mine")
    write(tmp_path, FIRST)
    write(tmp_path, SECOND, model=OTHER)
    assert (tmp_path / "hypotheses" / "notes.txt").read_text() == "mine"


def test_no_scores_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, FIRST)

    def full_disk(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_text", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path, SECOND)
    assert not (tmp_path / "scores.json").exists()


def test_nothing_temporary_stays(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    "name", ["../../../victim/thesis", "../victim/sv-en", "/victim/sv-en", "notes", "x-en/../y-en"]
)
@pytest.mark.parametrize("file", ["hypotheses/made_from.json", "scores.json"])
def test_names_in_an_earlier_evaluation_remove_nothing_elsewhere(tmp_path: Path, name: str, file: str) -> None:
    results, victim = tmp_path / "run", tmp_path / "victim"
    write(results, FIRST)
    victim.mkdir()
    header = "source\thypothesis\treference\n"
    for path in (victim / "thesis.tsv", victim / "sv-en.tsv", results / "hypotheses" / "notes.tsv"):
        path.write_text(header)
    entry = {name: {"sources": "", "hypotheses": ""}, "sv-en": 3}
    (results / file).write_text(json.dumps({"format": 1, "made_from": {}, "directions": entry}))
    write(results, SECOND, model=OTHER)
    assert sorted(path.name for path in victim.iterdir()) == ["sv-en.tsv", "thesis.tsv"]
    assert (results / "hypotheses" / "notes.tsv").exists()


def test_files_of_a_direction_that_others_wrote_stay(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    (tmp_path / "hypotheses" / "nso-en.hyp").write_text("corrected by hand\n")
    (tmp_path / "hypotheses" / "nso-en.tsv").write_text("my own table\n")
    write(tmp_path, SECOND, model=OTHER)
    assert {"nso-en.hyp", "nso-en.tsv"} <= {path.name for path in (tmp_path / "hypotheses").iterdir()}


def test_a_link_to_another_folder_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "victim", FIRST)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hypotheses").symlink_to("../victim/hypotheses")
    with pytest.raises(UserError, match="is a link"):
        write(tmp_path / "run", SECOND, model=OTHER)
    assert (tmp_path / "victim" / "hypotheses" / "nso-en.hyp").exists()


def test_comparisons_with_others_stay_and_the_same_one_is_replaced(tmp_path: Path) -> None:
    def comparison(other: str, delta: float, text: str = "test") -> dict[str, Any]:
        checkpoints = {"a": "runs/a/best.pt", "smoe": other}
        return {"baseline": "a", "checkpoints": checkpoints, "text": text, "partial": None, "tests": [{"delta": delta}]}

    (tmp_path / "comparison.json").write_text('{"format": 1, "comparisons": [{}]}')
    first, second, third = comparison("x/smoe.pt", 1.0), comparison("y/smoe.pt", 2.0), comparison("x/smoe.pt", 3.0, "w")
    for one in (comparison("x/smoe.pt", 0.0), second, third, first):
        path = write_comparison(tmp_path, one)
    assert json.loads(path.read_text()) == {"format": 2, "comparisons": [second, third, first]}
