"""Hidden units of experts, counted by direction and block."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.analysis.units import UnitMeans
from smoe_mt.moe import Routing
from smoe_mt.moe.names import Block

BLOCK = Block("encoder", 2)


def routing(visits: list[int], units: int | list[int]) -> Routing:
    given = torch.tensor(units) if isinstance(units, list) else units
    return Routing({}, torch.tensor(visits), (), (), given)


def test_mean_is_over_tokens_of_all_passes_and_leaves_padding_out() -> None:
    means = UnitMeans((BLOCK,))
    means.add("aa-en", [routing([1, 2, 0], 8)])
    means.add("aa-en", [routing([1, 1, 0], [4, 12, 0])])
    means.add("en-aa", [routing([1], [40])])
    assert means.mean(BLOCK, "aa-en") == pytest.approx((8 + 16 + 4 + 12) / 4)
    assert means.mean(BLOCK) == pytest.approx((8 + 16 + 4 + 12 + 40) / 5)


@pytest.mark.parametrize(
    ("passes", "varies"),
    [([([1, 1, 0], 8)], False), ([([1, 1], 8), ([2, 2], 8)], True), ([([1, 1], [4, 8])], True), ([([0, 0], 8)], False)],
)
def test_units_vary_if_two_tokens_differ(passes: list[tuple[list[int], int]], varies: bool) -> None:
    means = UnitMeans((BLOCK,))
    for each in passes:
        means.add("aa-en", [routing(*each)])
    assert means.varies is varies
