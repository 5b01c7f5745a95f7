"""What a result is called, and what it leaves out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from smoe_mt.bleu_tokenizers import AUTO
from smoe_mt.generation import RoutingOptions
from smoe_mt.scores_file import USUAL, partial, title
from smoe_mt.search.beam import Decoding

WHOLE = {"directions": {"aa-en": {}, "en-aa": {}}, "limit": None, **USUAL}


def test_the_usual_is_what_is_done_unless_told() -> None:
    assert asdict(Decoding()) | asdict(RoutingOptions()) | {"tokenize": AUTO} == USUAL


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "test"),
        ({"left_out": {"sentences": 0, "directions": []}, "limit": 900}, "test"),
        ({"beam": 1}, "test, beam 1"),
        ({"limit": 2}, "test, partial (first 2 sentences of each direction)"),
        (
            {"limit": 2, "left_out": {"sentences": 5, "directions": ["en-bb"]}, "lenpen": 0.5},
            "test, length penalty 0.5, partial (first 2 sentences of each direction, 2 of 3 directions)",
        ),
    ],
)
def test_a_title_says_what_is_not_as_usual(change: dict[str, Any], expected: str) -> None:
    assert title(WHOLE | change, "test") == expected


def test_scores_of_an_earlier_version_are_partial_by_their_limit() -> None:
    assert partial({"directions": {}}) == "" and partial({"directions": {}, "limit": 3})
