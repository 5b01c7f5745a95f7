"""What an analysis prints, draws and writes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from smoe_mt.analysis.capacity import CapacityReport
from smoe_mt.analysis.command import write
from smoe_mt.analysis.figures import FIGURES
from smoe_mt.analysis.figures.base import MANY, PAGE
from smoe_mt.analysis.figures.capacity_by_block import draw as by_block
from smoe_mt.analysis.figures.capacity_by_direction import draw as by_direction
from smoe_mt.analysis.text import as_csv, collapse_message, direction_table, histograms
from smoe_mt.analysis.tokens import TokenMean
from tests.analysis.fake import ALIKE, BLOCKS, VARIED, report

CAPACITY = ("capacity_by_direction", "capacity_by_block", "capacity_per_token")
ROUTING = ("stratum_load", "expert_load", "gate_entropy", "language_overlap")
NUMBERS = ["requested_capacity.csv", "requested_capacity.json"]


def files(*figures: str) -> list[str]:
    return sorted(f"{name}.{kind}" for name in figures for kind in ("png", "svg", "pdf", "csv", "json"))


def test_histogram_has_a_bar_for_each_number_of_visits() -> None:
    lines = histograms(report(VARIED, VARIED)).splitlines()
    assert lines[0] == "encoder.layers.1: mean 1.500 of 2 strata"
    assert lines[1:3] == [f"  1 visit   50.00% {'#' * 20}", f"  2 visits  50.00% {'#' * 20}"]


def test_collapse_is_loud() -> None:
    some = report(VARIED, ALIKE)
    assert "COLLAPSE: every token of every direction makes 2 visit(s) here" in histograms(some)
    assert collapse_message(some) == "COLLAPSE: all tokens make the same number of visits in decoder.layers.1"
    assert "no figure" in str(collapse_message(report(ALIKE, ALIKE)))
    assert collapse_message(report(VARIED, VARIED)) is None


def test_json_of_a_partial_collapse() -> None:
    content = report(VARIED, ALIKE).as_json()
    assert content["collapsed"] == ["decoder.layers.1"]
    assert content["strata"] == 2
    entry = content["directions"]["en-nso"]
    assert entry["encoder"]["mean"] == pytest.approx(1.25)
    assert entry["decoder"]["blocks"]["decoder.layers.1"] == {"mean": 2.0, "histogram": [0.0, 1.0]}
    assert entry["expert_load"]["encoder.layers.1"] == [[0.25, 0.75], [1.0]]
    assert content["blocks"]["encoder.layers.1"]["mean"] == pytest.approx(1.5)


def test_table_has_encoder_and_decoder_apart() -> None:
    rows = [line.split() for line in direction_table(report(VARIED, ALIKE)).splitlines()]
    assert rows == [["direction", "encoder", "decoder"], ["nso-en", "1.750", "2.000"], ["en-nso", "1.250", "2.000"]]


def test_csv_has_a_row_for_each_direction_and_block() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(report(VARIED, ALIKE)))))
    assert len(rows) == 4
    assert rows[0] | {"mean": float(rows[0]["mean"])} == {
        "direction": "nso-en",
        "side": "encoder",
        "block": "encoder.layers.1",
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


@pytest.mark.slow
def test_full_collapse_draws_no_figure_of_capacity_and_removes_old_ones(tmp_path: Path) -> None:
    write(report(VARIED, ALIKE), tmp_path)
    write(report(ALIKE, ALIKE), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files(*ROUTING), *NUMBERS])
    assert json.loads((tmp_path / "requested_capacity.json").read_text())["collapsed"] == [
        "encoder.layers.1",
        "decoder.layers.1",
    ]


@pytest.mark.slow
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
    drawn = [figure for figure in FIGURES if figure.applies(full)]
    assert {figure.name for figure in FIGURES} - {figure.name for figure in drawn} == {
        "units_by_direction"
    }  # test_units
    for figure in drawn:
        assert [path.name for path in figure.write(full, tmp_path)] == [
            f"{figure.name}.{kind}" for kind in ("png", "svg", "pdf", "csv", "json")
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
    assert panel.get_title(loc="left") == "encoder.layers.1"
    low, high = panel.get_ylim()
    assert low > high, "frequent tokens are on top"


LANGUAGES = [f"l{number}" for number in range(MANY + 2)]
CROWD = {f"{one}-{other}": [[1, 2]] for each in LANGUAGES for one, other in ((each, "en"), ("en", each))}


@pytest.fixture(scope="module")
def crowd() -> CapacityReport:
    """More languages than figures show one by one."""
    full = report(CROWD, CROWD)
    for direction in CROWD:
        full.extremes.extend(extremes(direction))
    return full


def drawn(name: str, of: CapacityReport) -> Any:
    return next(figure for figure in FIGURES if figure.name == name).draw(of)


@pytest.mark.parametrize("name", [figure.name for figure in FIGURES])
def test_figures_of_many_languages_fit_a_page(name: str, crowd: CapacityReport) -> None:
    drawing = drawn(name, crowd)
    assert drawing.get_figwidth() <= PAGE + 1, "and a legend"


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_bars_of_many_directions_stand_in_lines(crowd: CapacityReport) -> None:
    panels = drawn("capacity_by_direction", crowd).axes
    shown = [name for panel in panels for name in ticks(panel.xaxis)]
    assert shown == list(CROWD) * 2 and max(len(ticks(panel.xaxis)) for panel in panels) <= MANY
    assert len({panel.get_xlim() for panel in panels}) == 1, "bars are equally wide"


def test_violins_of_many_directions_are_those_of_groups(crowd: CapacityReport) -> None:
    panel = drawn("token_rank", crowd).axes[-1]
    assert ticks(panel.xaxis) == [f"all ({len(CROWD)})", f"xx-en ({MANY + 2})", f"en-xx ({MANY + 2})"]


def test_heat_maps_of_many_languages_name_them_all_and_have_no_numbers(crowd: CapacityReport) -> None:
    few = report(VARIED, VARIED)
    assert drawn("stratum_load", few).axes[0].texts
    for name in ("stratum_load", "expert_load", "language_overlap"):
        panel = drawn(name, crowd).axes[0]
        assert sorted(ticks(panel.yaxis)) == sorted([*LANGUAGES, "en"]) and not panel.texts


def test_dots_of_many_directions_stand_side_by_side(crowd: CapacityReport) -> None:
    for of, places in ((report(VARIED, VARIED), 1), (crowd, len(CROWD))):
        dots = drawn("gate_entropy", of).axes[0].lines[0].get_xdata()
        assert len(set(dots)) == places


def test_many_languages_stand_beside_those_that_use_the_same_experts() -> None:
    """Every second language asks the other expert: those of a kind come together."""
    many = report(CROWD, CROWD)
    for number, language in enumerate(LANGUAGES):
        asked = many.load.asked[f"{language}-en"][BLOCKS[0]]
        asked[0] = torch.tensor([0, 4] if number % 2 else [4, 0])
        asked[1] = torch.tensor([0])
    names = [name for name in ticks(drawn("language_overlap", many).axes[0].yaxis) if name != "en"]
    kinds = [int(name[1:]) % 2 for name in names]
    assert kinds in (sorted(kinds), sorted(kinds, reverse=True))
