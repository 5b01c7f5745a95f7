"""What a run is called in the paper's tables."""

from __future__ import annotations

import pytest

from smoe_mt.report.run import row_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"moe": "none"}, "dense"),
        ({"moe": "vanilla", "num_experts": 8}, "vanilla"),
        ({"moe": "vanilla", "num_experts": 32}, "vanilla_32"),
        ({"moe": "eom"}, "eom"),
        ({"moe": "stratified", "strata": [4, 12]}, "smoe_4_12"),
        ({"moe": "stratified", "strata": "2,2,2,2"}, "smoe_2_2_2_2"),
        ({"moe": "stacking", "strata": [4, 4]}, "stacking_2_4"),
        ({"moe": "stacking", "strata": [2, 2, 2, 2]}, "stacking_4_2"),
    ],
)
def test_a_model_has_the_name_of_its_config(model: dict[str, object], name: str) -> None:
    assert row_name(model) == name
