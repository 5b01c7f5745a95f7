"""What a result is the result of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from smoe_mt.bleu_tokenizers import AUTO
from smoe_mt.evaluation.identity import variant, weights_checksum
from smoe_mt.generation import Decoding
from smoe_mt.models import SMoETransformerModel


def test_equal_weights_have_equal_checksums(make_model: Callable[..., SMoETransformerModel]) -> None:
    one, other = make_model(), make_model()
    assert weights_checksum(one) == weights_checksum(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert weights_checksum(one) != weights_checksum(other)
    assert weights_checksum(one.half()) != weights_checksum(make_model())


@pytest.mark.parametrize(
    ("directions", "limit", "decoding", "tokenize", "expected"),
    [
        ([], None, Decoding(), AUTO, []),
        (["b-c", "a-b", "b-c"], 7, Decoding(), AUTO, ["a-b+b-c", "first-7"]),
        ([], None, Decoding(beam=1, lenpen=0.6), "char", ["beam-1", "lenpen-0.6", "tokenize-char"]),
    ],
)
def test_a_result_is_named_after_what_is_not_as_usual(
    directions: list[str], limit: int | None, decoding: Decoding, tokenize: str, expected: list[str]
) -> None:
    assert variant(directions, limit, decoding, tokenize) == expected


def test_many_directions_make_a_short_name() -> None:
    (first,), (second,) = (
        variant([f"a{letter}-en" for letter in x], None, Decoding(), AUTO) for x in ("bcdef", "bcdeg")
    )
    assert first != second and first.startswith("5-directions-") and len(first) < 30
