"""chrF++ against FLOPs of every routing that was evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.analysis.cost import cost_of_model, skeleton
from smoe_mt.models import SMoETransformerConfig
from smoe_mt.report.quality import points_of, quality_picture, quality_table
from smoe_mt.report.run import Run
from smoe_mt.report.size import flops_of_result

VOCABULARY = 100
MODEL = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
       {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2}.items()},
    "moe": "stratified", "strata": "2,2",
}  # fmt: skip
BLOCKS = ("encoder.layers.1", "decoder.layers.1")


def scores(chrf: float, units: float, **settings: Any) -> dict[str, Any]:
    measured = {"sentences": 1, "context": 10, "blocks": {block: {"units": units, "visits": 1.0} for block in BLOCKS}}
    return {
        "split": "test",
        "directions": {"aa-en": {"signatures": {}}},
        "mean": {"chrf": chrf},
        "measured": measured,
    } | settings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    results = {
        "test": scores(50.0, 48.0),
        "test.capacity-visits-1": scores(45.0, 24.0, capacity="visits=1"),
        "test.test_top_k-1": scores(40.0, 12.0, test_top_k=1),
        "test.beam-1": scores(30.0, 48.0, beam=1),
        "test.first-2": scores(30.0, 48.0, left_out={"sentences": 5, "directions": []}, limit=2),
        "valid": scores(30.0, 48.0, split="valid"),
        "test.capacity-bias-1": {**scores(60.0, 60.0, capacity="bias=1"), "measured": None},
    }
    (tmp_path / "checkpoint_best.pt").touch()
    for name, content in results.items():
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        content = {key: value for key, value in content.items() if value is not None}
        (tmp_path / "evaluation" / name / "scores.json").write_text(json.dumps(content))
    return Run("smoe", tmp_path / "checkpoint_best.pt", {"model": MODEL}, 1, tmp_path, vocabulary=VOCABULARY)


def test_points_are_the_routings_of_one_text_and_search_by_cost(run: Run) -> None:
    points = points_of([run], "test")
    assert [(point.setting, point.chrf) for point in points] == [
        ("top-k in the test 1", 40.0),
        ("capacity visits=1", 45.0),
        ("", 50.0),
    ]
    assert points[2].flops - points[1].flops == 2 * 24 * 4 * 16, "24 units more in each of two blocks"
    table = quality_table(points)
    assert [row[1] for row in table.rows] == ["top-k in the test 1", "capacity visits=1", "as trained"]
    assert quality_picture(points).svg.count(b"capacity visits=1") == 1


def test_a_dense_model_costs_what_its_settings_say() -> None:
    dense = {**MODEL, "moe": "none"}
    settings = SMoETransformerConfig(**{**dense, "strata": "2,2"})
    expected = cost_of_model(skeleton(settings, VOCABULARY), VOCABULARY, 7).flops_per_token
    assert flops_of_result(dense, VOCABULARY, {"measured": {"context": 7, "blocks": {}}}) == expected


def test_a_contrast_costs_both_passes_with_one_encoder_or_two() -> None:
    weak = {block: {"units": 24.0} for block in BLOCKS}
    one = scores(1.0, 48.0)
    strong, alone = (flops_of_result(MODEL, VOCABULARY, scores(1.0, units)) for units in (48.0, 24.0))
    both = {**one, "contrast": 0.5, "measured": {**one["measured"], "weak_blocks": weak}}
    shared = flops_of_result(MODEL, VOCABULARY, {**both, "contrast_encoder": False})
    twice = flops_of_result(MODEL, VOCABULARY, {**both, "contrast_encoder": True})
    assert strong is not None and alone is not None and shared is not None
    assert twice == strong + alone and strong < shared < twice
    encoder = 2 * (8 * 16 * 16 + 4 * 10 * 16) + 4 * 16 * 24 + 4 * 16 * 24
    assert twice - shared == encoder


def test_what_was_not_measured_is_no_point(run: Run) -> None:
    assert flops_of_result(MODEL, VOCABULARY, {"contrast": None}) is None
