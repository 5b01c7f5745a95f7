"""Tables for a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.evaluation.command import run_names
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, Corpus
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.scores import DirectionScores
from smoe_mt.evaluation.table import samples, scores_table


def flat(value: float) -> DirectionScores:
    return DirectionScores({metric.name: value for metric in DEFAULT_METRICS}, {}, 2)


def evaluation(name: str, value: float, directions: tuple[str, ...] = ("nso-en", "en-nso")) -> Evaluation:
    corpora = tuple(
        Corpus(direction, ("s1", "s2"), (f"{name} 1", f"{name} 2"), ("r1", "r2")) for direction in directions
    )
    scores = {direction: flat(value + place) for place, direction in enumerate(directions)}
    return Evaluation(name, corpora, scores, {"copy": {direction: flat(3) for direction in directions}}, {})


def test_runs_stand_side_by_side() -> None:
    table = scores_table([evaluation("dense", 10), evaluation("smoe", 20)])
    lines = table.splitlines()
    assert ".dense." in lines[0] and ".smoe." in lines[0]
    row = next(line for line in lines if line.startswith("en-nso")).split()
    assert row == ["en-nso", "3.0", "11.0", "11.0", "11.00", "11.00", "21.0", "21.0", "21.00", "21.00"]


def test_means_close_the_table() -> None:
    table = scores_table([evaluation("dense", 10)])
    mean, to_english, from_english = (line.split() for line in table.splitlines()[-3:])
    assert mean[:3] == ["mean", "3.0", "10.5"]
    assert to_english[2:4] == ["3.0", "10.0"] and from_english[2:4] == ["3.0", "11.0"]


def test_resource_classes_follow_the_means() -> None:
    one = evaluation("dense", 10, ("slv-en", "en-slv", "en-lim"))
    table = scores_table([Evaluation("dense", one.corpora, one.scores, one.baselines, {"benchmark": "m15"})])
    rows = {line[:14].rstrip(): line[14:].split() for line in table.splitlines()[-9:]}
    assert [rows[name][1] for name in ("high", "high xx-en", "high en-xx")] == ["10.5", "10.0", "11.0"]
    assert rows["low"][1] == "-" and rows["very low en-xx"][1] == "12.0"


def test_a_direction_that_one_run_lacks_is_a_dash() -> None:
    table = scores_table([evaluation("dense", 10, ("nso-en",)), evaluation("smoe", 20)])
    row = next(line for line in table.splitlines() if line.startswith("en-nso")).split()
    assert row[2:6] == ["-"] * 4 and row[6] == "21.0"


def test_all_lines_fit_the_rule() -> None:
    lines = scores_table([evaluation("a-very-long-name-of-a-run-with-all-its-settings-in-it", 10)]).splitlines()
    assert max(map(len, lines)) == len(lines[2])


def test_samples_are_no_more_than_there_are_sentences() -> None:
    assert len(samples(evaluation("smoe", 1), 99_999_999_999).split("\n\n")) == 4


def test_samples_take_turns_over_directions() -> None:
    shown = samples(evaluation("smoe", 1), 3).split("\n\n")
    assert len(shown) == 3
    assert [text.split()[0] for text in shown] == ["nso-en", "en-nso", "nso-en"]
    assert "source      s1" in shown[0] and "smoe 1" in shown[0] and "reference   r1" in shown[0]
    assert "smoe 2" in shown[2]


def test_samples_name_the_run_in_full() -> None:
    source, hypothesis, reference = samples(evaluation("smoe_2_2_2_2", 1), 1).split("\n")
    assert hypothesis.split()[0] == "smoe_2_2_2_2"
    assert source.index("s1") == hypothesis.index("smoe_2_2_2_2 1") == reference.index("r1")


def test_run_names_tell_runs_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "dense", tmp_path / "b" / "dense"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "checkpoint_best.pt").touch()
        (path / "checkpoint_last.pt").touch()
    best, last = paths[0] / "checkpoint_best.pt", paths[0] / "checkpoint_last.pt"
    assert run_names([best]) == ["dense"]
    assert run_names([best, paths[1] / "checkpoint_best.pt"]) == ["a/dense", "b/dense"]
    assert run_names([best, last]) == ["dense", "checkpoint_last"]
    with pytest.raises(UserError, match="twice"):
        run_names([best, best])


def test_run_names_leave_out_a_seed_and_a_checkpoint_that_all_have(tmp_path: Path) -> None:
    means = [tmp_path / row / "seed1" / "checkpoint_average.pt" for row in ("dense", "smoe_4_4")]
    for mean in means:
        mean.parent.mkdir(parents=True)
        mean.touch()
        (mean.parent / "checkpoint_best.pt").touch()
    assert run_names(means) == ["dense", "smoe_4_4"]
