"""What an analysis prints, draws and writes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from smoe_mt.analysis.command import write
from smoe_mt.analysis.figures import FIGURES
from smoe_mt.analysis.figures.capacity_by_block import draw as by_block
from smoe_mt.analysis.figures.capacity_by_direction import draw as by_direction
from smoe_mt.analysis.text import as_csv, collapse_message, direction_table, histograms
from smoe_mt.analysis.tokens import TokenMean
from tests.analysis.fake import ALIKE, BLOCKS, VARIED, report

CAPACITY = ("capacity_by_direction", "capacity_by_block", "capacity_per_token")
ROUTING = ("stratum_load", "expert_load", "gate_entropy", "language_overlap")
NUMBERS = ["requested_capacity.csv", "requested_capacity.json"]


def files(*figures: str) -> list[str]:
    return sorted(f"{name}.{kind}" for name in figures for kind in ("png", "svg", "csv", "json"))


def test_histogram_has_a_bar_for_each_number_of_visits() -> None:
    lines = histograms(report(VARIED, VARIED)).splitlines()
    assert lines[0] == "encoder layer 2: mean 1.500 of 2 strata"
    assert lines[1:3] == [f"  1 visit   50.00% {'#' * 20}", f"  2 visits  50.00% {'#' * 20}"]


def test_collapse_is_loud() -> None:
    some = report(VARIED, ALIKE)
    assert "COLLAPSE: every token of every direction makes 2 visit(s) here" in histograms(some)
    assert collapse_message(some) == "COLLAPSE: all tokens make the same number of visits in decoder.2"
    assert "no figure" in str(collapse_message(report(ALIKE, ALIKE)))
    assert collapse_message(report(VARIED, VARIED)) is None


def test_json_of_a_partial_collapse() -> None:
    content = report(VARIED, ALIKE).as_json()
    assert content["collapsed"] == ["decoder.2"]
    assert content["strata"] == 2
    entry = content["directions"]["en-nso"]
    assert entry["encoder"]["mean"] == pytest.approx(1.25)
    assert entry["decoder"]["blocks"]["decoder.2"] == {"mean": 2.0, "histogram": [0.0, 1.0]}
    assert entry["expert_load"]["encoder.2"] == [[0.25, 0.75], [1.0]]
    assert content["blocks"]["encoder.2"]["mean"] == pytest.approx(1.5)


def test_table_has_encoder_and_decoder_apart() -> None:
    rows = [line.split() for line in direction_table(report(VARIED, ALIKE)).splitlines()]
    assert rows == [["direction", "encoder", "decoder"], ["nso-en", "1.750", "2.000"], ["en-nso", "1.250", "2.000"]]


def test_csv_has_a_row_for_each_direction_and_block() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(report(VARIED, ALIKE)))))
    assert len(rows) == 4
    assert rows[0] | {"mean": float(rows[0]["mean"])} == {
        "direction": "nso-en",
        "side": "encoder",
        "layer": "2",
        "tokens": "4",
        "mean": 1.75,
        "share_1": "0.250000",
        "share_2": "0.750000",
    }


def test_figures_and_numbers_are_written(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    written = write(report(VARIED, ALIKE), tmp_path / "new")
    assert sorted(path.name for path in written) == sorted([*files(*CAPACITY, *ROUTING), *NUMBERS])
    assert all(path.stat().st_size for path in written)
    assert not list((tmp_path / "new").glob("*.tmp-*"))
    ElementTree.parse(tmp_path / "new" / "capacity_by_block.svg")


def test_full_collapse_draws_no_figure_of_capacity_and_removes_old_ones(tmp_path: Path) -> None:
    write(report(VARIED, ALIKE), tmp_path)
    write(report(ALIKE, ALIKE), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files(*ROUTING), *NUMBERS])
    assert json.loads((tmp_path / "requested_capacity.json").read_text())["collapsed"] == ["encoder.2", "decoder.2"]


def test_the_same_numbers_give_the_same_svg(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(report(VARIED, ALIKE), tmp_path / name)
    one, two = ((tmp_path / name / "capacity_by_block.svg").read_bytes() for name in ("one", "two"))
    assert one == two


def test_axes_show_the_whole_range() -> None:
    for figure in (by_direction(report(VARIED, VARIED)), by_block(report(VARIED, VARIED))):
        for panel in figure.axes:
            low, high = panel.get_ylim()
            assert low == 1 and high >= 2


def test_a_collapsed_block_is_annotated() -> None:
    panel = by_block(report(VARIED, ALIKE)).axes[0]
    assert [text.get_text() for text in panel.texts] == ["1.50", "2.00\ncollapsed"]


def test_panels_of_many_directions_stand_one_over_the_other() -> None:
    many = {f"l{number}-en": [[1, 2]] for number in range(20)}
    for directions, rows in ((VARIED, 1), (many, 2)):
        figure = by_direction(report(directions, directions))
        assert figure.axes[0].get_gridspec().nrows == rows


def extremes(direction: str) -> list[TokenMean]:
    ranks = {"lowest": (1, 10, 30), "highest": (900, 1200, 1200)}
    return [
        TokenMean(direction, BLOCKS[0], group, f"t{rank}", 9, 1.5, rank)
        for group, found in ranks.items()
        for rank in found
    ]


def test_every_figure_has_its_numbers_beside_it(tmp_path: Path) -> None:
    """The tables have the columns that they announce, in CSV as in JSON."""
    full = report(VARIED, VARIED)
    full.extremes.extend([*extremes("nso-en"), *extremes("en-nso")])
    for figure in FIGURES:
        assert [path.name for path in figure.write(full, tmp_path)] == [
            f"{figure.name}.{kind}" for kind in ("png", "svg", "csv", "json")
        ]
        rows = list(csv.DictReader((tmp_path / f"{figure.name}.csv").open(encoding="utf-8")))
        content = json.loads((tmp_path / f"{figure.name}.json").read_text())
        assert tuple(rows[0]) == figure.columns == tuple(content["rows"][0])
        assert len(rows) == len(content["rows"]) > 0 and content["caption"]


def test_violins_of_a_block_that_varies() -> None:
    full = report(VARIED, ALIKE)
    full.extremes.extend(extremes("nso-en"))
    drawing = next(figure for figure in FIGURES if figure.name == "token_rank").draw(full)
    (panel,) = drawing.axes
    assert panel.get_title(loc="left") == "Encoder, layer 2"
    low, high = panel.get_ylim()
    assert low > high, "frequent tokens are on top"


def test_many_languages_are_drawn_too() -> None:
    many = {f"l{number}-en": [[1, 2]] for number in range(30)}
    for figure in FIGURES:
        if figure.name != "token_rank":
            figure.draw(report(many, many)).canvas.draw()
