"""What each sort of values takes, from text as from a config."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.allowed import flags
from smoe_mt.allowed.keys import KEYS
from smoe_mt.allowed.kinds import (
    Choice,
    Either,
    Experts,
    Flag,
    Kind,
    Maybe,
    Only,
    Real,
    Several,
    Table,
    Text,
    Whole,
    refusal,
    shown,
)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (Whole(1, 5), "5", 5),
        (Whole(-1, 5), -1, -1),
        (Real(0, 1), "1e-3", 0.001),
        (Real(0, 1), 1, 1.0),
        (Flag(), "no", False),
        (Flag(), True, True),
        (Choice(("off", "on")), False, "off"),
        (Choice(("a", "b")), "b", "b"),
        (Text(), 12, "12"),
        (Text(empty=True), "", ""),
        (Several(Whole(1, 9)), "(4, 5)", [4, 5]),
        (Several(Whole(1, 9)), 4, [4]),
        (Several(Whole(1, 9)), [4], [4]),
        (Maybe(Whole(1, 9)), None, None),
        (Maybe(Whole(1, 9)), "null", None),
        (Either((Whole(1, 9), Flag())), "yes", True),
        (Only(False, "x"), "false", False),
        (Only(None, "x"), None, None),
        (Table(), "{'a': 1}", {"a": 1}),
    ],
)
def test_a_value_that_is_allowed(kind: Kind, value: object, read: Any) -> None:
    assert kind.read(value) == read and refusal(kind, value) is None


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Whole(1, 5), 6, "a whole number from 1 to 5"),
        (Whole(1, 5), 1.0, "a whole number"),
        (Whole(1, 5), True, "a whole number"),
        (Whole(1, 5), "1.0", "a whole number"),
        (Whole(1, 5), "9" * 10_000, "a whole number"),
        (Real(0, 1, below=True), 1, "from 0 to below 1"),
        (Real(0, 1, above=True), 0, "above 0 to 1"),
        (Real(0, 1), "nan", "from 0 to 1"),
        (Real(0, 1e308), float("inf"), "a number"),
        (Real(0, 1), [0.5], "a number"),
        (Flag(), "maybe", "true or false"),
        (Flag(), 2, "true or false"),
        (Choice(("a", "b")), "c", "one of a, b"),
        (Text(), "", "text on one line"),
        (Text(), "a\nb", "text on one line"),
        (Text(), "x" * 5000, "of 1 to 4,096 letters"),
        (Several(Whole(1, 9)), "4,x", "or a list of such"),
        (Several(Whole(1, 9)), [], "or a list of such"),
        (Several(Real(0, 1), most=2, least=2), "(0.9, 0.98", "a list of 2 values"),
        (Several(Real(0, 1), most=2, least=2), "0.9", "a list of 2 values"),
        (Maybe(Whole(1, 9)), "none", "or null"),
        (Only(False, "why not"), True, "false: why not"),
        (Table(), "__import__('os')", "a mapping"),
        (Table(), "[" * 100_000, "a mapping"),
    ],
)
def test_a_value_that_is_not(kind: Kind, value: object, words: str) -> None:
    wrong = refusal(kind, value)
    assert wrong is not None and wrong.startswith("must be ") and words in wrong


@given(
    st.sampled_from(sorted(KEYS)),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)
def test_every_key_takes_or_refuses_every_value(key: str, value: object) -> None:
    wrong = refusal(KEYS[key], value)
    assert wrong is None or (wrong.startswith("must be ") and "\n" not in wrong)


@given(st.text())
def test_a_value_is_shown_on_one_short_line(text: str) -> None:
    assert shown(text).isprintable() and len(shown(text)) <= 63


def test_a_flag_says_what_it_takes() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"'99999999999' must be a whole number from 1 to 1,000$"):
        flags.beam("99999999999")
    assert flags.beam("5") == 5


@pytest.mark.parametrize("text", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(text: str) -> None:
    assert flags.device(text) == text


@pytest.mark.parametrize("text", ["gpu", "", "cuda:", "cuda:-1", "CPU"])
def test_no_devices(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be auto, cpu or cuda"):
        flags.device(text)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("4,4", [4, 4]),
        ("[2, 2]", [2, 2]),
        ([4, 12], [4, 12]),
        (4, 4),
        ("4,4;8;2,6", [[4, 4], [8], [2, 6]]),
        ([[4, 4], [8]], [[4, 4], [8]]),
    ],
)
def test_experts_are_a_number_a_list_or_a_list_for_each_block(value: object, read: object) -> None:
    assert Experts().read(value) == read


@pytest.mark.parametrize("value", ["", "x", "0,4", [], [0], [True], None, 2.0, [70_000], "9" * 5000, [[4], 0]])
def test_experts_that_make_no_sense_are_refused(value: object) -> None:
    assert refusal(Experts(), value)
