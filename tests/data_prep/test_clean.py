"""What a pair of sentences is faulted for by itself."""

from __future__ import annotations

import pytest

from data_prep.clean import CleanOptions, common_subsequence, fault, folded, is_broken
from data_prep.corpora.l10n import PLACEHOLDERS as L10N_PLACEHOLDERS

OPTIONS = CleanOptions()


@pytest.mark.parametrize(
    "first, second, reason",
    [
        ("Lumela lefase", "Hello world", None),
        ("", "Hello", "empty"),
        ("123 - 4", "Hello", "no letters"),
        ("Hello, World", "hello world!", "copies"),
        ("Hello big wide worlds", "hello big wide world hello", None),
        ("open the new window now", "open the new windows now", "near copies"),
        ("e d c b a", "a b c d e", None),
        ("x" * 1001, "Hello", "too long"),
        ("Faele %s", "File %d", "placeholders differ"),
        ("%2$s le %1$s", "%1$s and %2$s", None),
        ("{name} o tla", "{name} comes", None),
        ("20 % de réduction", "20% discount", None),
        ("Ça coûte 5 $", "It costs $5", None),
    ],
)
def test_fault(first: str, second: str, reason: str | None) -> None:
    assert fault(first, second, OPTIONS) == reason


@pytest.mark.parametrize(
    "text, broken", [("bad \ufffd text", True), ("bell \x07", True), ("tab\tand\u00a0space\u2028", False)]
)
def test_control_and_replacement_characters_are_broken_and_white_space_is_not(text: str, broken: bool) -> None:
    assert is_broken(text) == broken


def test_copies_can_be_kept() -> None:
    assert fault("same words here", "same words here", CleanOptions(keep_copies=True)) is None


@pytest.mark.parametrize("text, count", [("$1 of $2", 2), ("%S and %1$S", 2), ("{ $name }", 1), ("100 % sure", 0)])
def test_l10n_knows_more_placeholders(text: str, count: int) -> None:
    assert len(L10N_PLACEHOLDERS.findall(text)) == count


@pytest.mark.parametrize(
    "text, key",
    [
        ("Page 12, of  30!", "page of"),
        ("ÉCOLE", "école"),
        ("ﬁle", "file"),
        ("123", "123"),
        ("क्षि", "क्षि"),
    ],
)
def test_folded(text: str, key: str) -> None:
    assert folded(text) == key


def test_common_subsequence() -> None:
    assert common_subsequence("abcde", "axcye") == 3
