"""Another routing, as it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation.routing_options import Capacity, RoutingOptions


@pytest.mark.parametrize(
    ("text", "dial", "value"),
    [("bias=-0.5", "bias", -0.5), ("visits=2", "visits", 2.0), ("mean=1.25", "mean", 1.25), ("bias=0", "bias", 0.0)],
)
def test_a_setting_of_the_dial_is_read(text: str, dial: str, value: float) -> None:
    assert Capacity.of(text) == Capacity(dial, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "bias",
        "bias=",
        "bias=nan",
        "bias=inf",
        "bias=21",
        "visits=0",
        "visits=1.5",
        "mean=0.5",
        "mean=inf",
        "x=1",
    ],
)
def test_what_is_no_setting_of_the_dial_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="it must be bias=B") as caught:
        RoutingOptions(capacity=text)
    assert "\n" not in str(caught.value)


def test_one_setting_has_one_spelling() -> None:
    assert RoutingOptions(capacity="mean=1.50") == RoutingOptions(capacity="mean=1.5")
    assert RoutingOptions(capacity="visits=2.0").given() == {"capacity": "visits=2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_top_k": 0}, "test_top_k is 0"),
        ({"test_top_k": True}, "test_top_k is True"),
        ({"test_top_p": 1.5}, "test_top_p is 1.5"),
        ({"test_threshold": float("nan")}, "test_threshold is nan"),
        ({"test_top_k": 1, "test_threshold": 0.5}, "test_top_k and test_threshold both say"),
        ({"capacity": 2}, "capacity is 2"),
    ],
)
def test_what_no_routing_can_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RoutingOptions(**options)


def test_nothing_asked_for_changes_nothing() -> None:
    assert RoutingOptions().changes_nothing and not RoutingOptions(test_top_p=0.0).changes_nothing
