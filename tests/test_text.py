"""The one form of a sentence."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt.text import normalise


@pytest.mark.parametrize(
    "raw, form",
    [
        ("  a\u00a0b\u3000c\td\u2028e\r\n", "a b c d e"),
        ("\ufeffstart", "start"),
        ("be\x07ll\x9b", "bell"),
        (unicodedata.normalize("NFD", "ánh sông"), "ánh sông"),
    ],
)
def test_spaces_marks_and_composition_are_normalised(raw: str, form: str) -> None:
    assert normalise(raw) == form


@pytest.mark.parametrize("text", ["می\u200cروم", "น้ำ", "，：！", "ﬁ", "क्\u200dष", "x²"])
def test_what_a_reader_sees_is_kept(text: str) -> None:
    assert normalise(text) == text


@given(st.text())
def test_result_is_one_line_and_stable(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert len(once.splitlines()) <= 1 and once == once.strip()
