"""Paths reach a configuration as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.allowed.overrides import checked, quoted
from smoe_mt.errors import UserError

NASTY = st.text(st.sampled_from("\\'\"=,({[]})#~: $é新a./%@?|"), max_size=10)


def read(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@given(NASTY)
def test_quoted_text_is_read_as_it_was(text: str) -> None:
    assert read(f"key={quoted(text)}") == text


@given(NASTY.filter(lambda text: "\\" not in text))
def test_a_path_is_taken_letter_by_letter(text: str) -> None:
    (override,) = checked([f"task.data=p{text}"])
    assert read(override) == f"p{text}"
    assert checked([override]) == [override]


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(checked(["checkpoint.save_dir=~/a b"])[0]) == f"{tmp_path}/a b"


def test_a_sweep_that_cannot_be_parted_says_how_to_quote() -> None:
    with pytest.raises(UserError, match="put quotes around each"):
        checked(["task.data=é(,b"], multirun=True)
