"""Outputs as evaluations stored them, and differences between runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.report.outputs import differences, read_outputs
from smoe_mt.report.run import Run

SOURCES = ["ein Haus am See", "zwei Hunde im Garten", "drei Katzen auf dem Dach", "vier"] * 5
REFERENCES = ["a house by the lake", "two dogs in the garden", "three cats on the roof", "four"] * 5


def stored(folder: Path, outputs: list[str], directions: tuple[str, ...] = ("de-en", "en-de"), **scores: object) -> Run:
    """A run with an evaluation of its split test."""
    hypotheses = folder / "evaluation" / "test" / "hypotheses"
    hypotheses.mkdir(parents=True)
    for direction in directions:
        rows = [("source", "hypothesis", "reference"), *zip(SOURCES, outputs, REFERENCES)]
        (hypotheses / f"{direction}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    content = {"split": "test", "directions": {direction: {"chrf": 1.0} for direction in directions}, **scores}
    (hypotheses.parent / "scores.json").write_text(json.dumps(content))
    (folder / "checkpoint_best.pt").touch()
    return Run(folder.name, folder / "checkpoint_best.pt", {"model": {"moe": "none"}}, 1, folder)


def test_a_better_run_is_found_on_all_sentences_together(tmp_path: Path) -> None:
    worse, better = stored(tmp_path / "a", SOURCES), stored(tmp_path / "b", REFERENCES)
    found = differences([worse, better], "test")
    one = found.found["b"]
    assert one.delta > 50 and one.p_value is not None and one.p_value < 0.05
    assert one.sentences == 2 * len(SOURCES) and not found.remarks


def test_equal_outputs_have_no_p_value(tmp_path: Path) -> None:
    runs = [stored(tmp_path / name, REFERENCES) for name in "ab"]
    assert differences(runs, "test").found["b"].p_value is None


@pytest.mark.parametrize(("change", "reason"), [
    ({"directions": ("de-en",)}, "do not translate the same directions: only one of them has en-de"),
    ({"left_out": {"sentences": 3, "directions": []}, "limit": 20}, "what there is of it: test, partial (first 20"),
    ({"split": "valid"}, "b has no result of all of test with the usual search"),
])  # fmt: skip
def test_what_cannot_be_compared_is_told_with_its_reason(
    change: dict[str, object], reason: str, tmp_path: Path
) -> None:
    first = stored(tmp_path / "a", REFERENCES)
    found = differences([first, stored(tmp_path / "b", SOURCES, **change)], "test")  # type: ignore[arg-type]
    assert not found.found
    assert reason in found.remarks[0].text and found.remarks[0].missing


@pytest.mark.parametrize("content", [b"", b"source\thypothesis\treference\n", b"\xff\n", b"a\tb\n",
                                     b"source\thypothesis\treference\nx\ty\n"])  # fmt: skip
def test_a_damaged_table_is_told(content: bytes, tmp_path: Path) -> None:
    run = stored(tmp_path / "a", REFERENCES)
    result = run.results["test"]
    path = result.folder / "hypotheses" / "de-en.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match="de-en.tsv: is no .*; evaluate again"):
        read_outputs(result, "de-en")
    path.unlink()
    with pytest.raises(UserError, match="de-en.tsv: cannot be read"):
        read_outputs(result, "de-en")


def test_a_direction_is_never_a_path(tmp_path: Path) -> None:
    run = stored(tmp_path / "a", REFERENCES)
    with pytest.raises(UserError, match="is no direction"):
        read_outputs(run.results["test"], "../../secret")
