"""What an evaluation leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.evaluation import files
from smoe_mt.evaluation.files import write_evaluation
from smoe_mt.evaluation.metrics import Corpus

FIRST = Corpus("nso-en", ("a\tb", "č"), ("x", ""), ("r", "s"))
SECOND = Corpus("en-nso", ("a",), ("y",), ("t",))


def scores(*corpora: Corpus) -> dict[str, dict[str, int]]:
    return {"directions": {corpus.direction: 1 for corpus in corpora}}


def test_hypotheses_and_a_table_for_people(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "new", [FIRST], scores(FIRST))
    hypotheses = tmp_path / "new" / "hypotheses"
    assert (hypotheses / "nso-en.hyp").read_text(encoding="utf-8") == "x\n\n"
    assert (hypotheses / "nso-en.tsv").read_text(encoding="utf-8") == (
        "source\thypothesis\treference\na b\tx\tr\nč\t\ts\n"
    )
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == scores(FIRST)


def test_an_earlier_evaluation_leaves_nothing(tmp_path: Path) -> None:
    write_evaluation(tmp_path, [FIRST, SECOND], scores(FIRST, SECOND))
    write_evaluation(tmp_path, [SECOND], scores(SECOND))
    assert sorted(path.name for path in (tmp_path / "hypotheses").iterdir()) == ["en-nso.hyp", "en-nso.tsv"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "hypotheses").mkdir()
    (tmp_path / "hypotheses" / "notes.txt").write_text("mine")
    write_evaluation(tmp_path, [FIRST], scores(FIRST))
    write_evaluation(tmp_path, [SECOND], scores(SECOND))
    assert (tmp_path / "hypotheses" / "notes.txt").read_text() == "mine"


def test_no_scores_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluation(tmp_path, [FIRST], scores(FIRST))

    def full_disk(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_text", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write_evaluation(tmp_path, [SECOND], scores(SECOND))
    assert not (tmp_path / "scores.json").exists()


def test_nothing_temporary_stays(tmp_path: Path) -> None:
    write_evaluation(tmp_path, [FIRST], scores(FIRST))
    assert not list(tmp_path.rglob("*.tmp-*"))
