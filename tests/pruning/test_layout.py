"""How many experts remain, as a person says it and as the model's settings do."""

from __future__ import annotations

import pytest

from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS
from smoe_mt.pruning.layout import Layout, setting_of, wanted_sizes
from tests.pruning.blocks import layout_of, of_system

STRATIFIED, VANILLA = SYSTEMS["stratified"], SYSTEMS["vanilla"]


def layouts(name: str, *blocks: tuple[int, ...]) -> list[Layout]:
    return [layout_of(of_system(name, sizes), name, sizes) for sizes in blocks]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("2", ((2, 2), (2, 2))),
        ("2,3", ((2, 3), (2, 3))),
        ("2,3;1,2", ((2, 3), (1, 2))),
        ("0.5", ((2, 2), (2, 3))),
        ("1.0", ((4, 3), (4, 5))),
        ("0.01", ((1, 1), (1, 1))),
    ],
)
def test_numbers_for_strata(text: str, sizes: tuple[tuple[int, ...], ...]) -> None:
    assert wanted_sizes(text, layouts("stratified", (4, 3), (4, 5)), STRATIFIED) == sizes


@pytest.mark.parametrize(("text", "sizes"), [("3", ((3,), (3,))), ("4,6", ((4,), (6,))), ("0.5", ((3,), (4,)))])
def test_numbers_for_blocks_with_one_gate(text: str, sizes: tuple[tuple[int, ...], ...]) -> None:
    assert wanted_sizes(text, layouts("vanilla", (5,), (8,)), VANILLA) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "stratum 1 of encoder.layers.1 has 4 experts, so 5 cannot remain"),
        ("4,4", "stratum 2 of encoder.layers.1 has 3 experts, so 4 cannot remain"),
        ("2,2,2", "3 numbers, but encoder.layers.1 has strata 4,3"),
        ("2;2;2", "strata for 3 blocks, but the model has 2"),
        ("0", "must be positive integers"),
        ("-1", "must be positive integers"),
        ("few", "must be positive integers"),
        ("0.0", "above 0 and at most 1"),
        ("1.5", "above 0 and at most 1"),
        ("nan.", "above 0 and at most 1"),
    ],
)
def test_numbers_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        wanted_sizes(text, layouts("stratified", (4, 3), (4, 3)), STRATIFIED)
    assert f"--experts {text}: " in str(raised.value)


@pytest.mark.parametrize(
    ("name", "sizes", "setting"),
    [
        ("stratified", ((3, 3), (3, 3)), "3,3"),
        ("stratified", ((3, 3), (4, 2)), "3,3;4,2"),
        ("stratified", ((3,), (4,)), "3;4"),
        ("vanilla", ((6,), (6,)), 6),
        ("vanilla", ((6,), (4,)), "6,4"),
    ],
)
def test_the_setting_means_these_experts(name: str, sizes: tuple[tuple[int, ...], ...], setting: int | str) -> None:
    system = SYSTEMS[name]
    assert setting_of(sizes, system) == setting
    assert system.groups({system.experts_setting: setting}, len(sizes)) == sizes
