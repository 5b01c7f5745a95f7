"""What --directions and --zero-shot choose."""

from __future__ import annotations

import pytest

from data_prep.directions import Pairs, Selection
from smoe_mt.errors import UserError

LANGUAGES = ("nso", "msa", "cat")
ENGLISH = ("cat-en", "msa-en", "nso-en")
OTHERS = ("cat-msa", "cat-nso", "msa-nso")


@pytest.mark.parametrize(
    "directions, zero_shot, trained, kept",
    [
        (None, None, ENGLISH, ()),
        ("english", None, ENGLISH, ()),
        ("all", None, (*OTHERS[:1], ENGLISH[0], *OTHERS[1:], *ENGLISH[1:]), ()),
        ("nso-en,msa-cat", None, ("nso-en", "cat-msa"), ()),
        ("english", "all", ENGLISH, OTHERS),
        ("english", "nso-cat", ENGLISH, ("cat-nso",)),
        ("all", "nso-cat", ("cat-en", "cat-msa", "msa-en", "msa-nso", "nso-en"), ("cat-nso",)),
    ],
)
def test_pairs(directions: str | None, zero_shot: str | None, trained: tuple[str, ...], kept: tuple[str, ...]) -> None:
    found = Selection(directions, zero_shot).of_languages(LANGUAGES, "english")
    assert (sorted(found.trained), sorted(found.zero_shot)) == (sorted(trained), sorted(kept))


@pytest.mark.parametrize(
    "directions, zero_shot, message",
    [
        ("nso-deu", None, "no language 'deu' \\(there are cat, en, msa, nso\\)"),
        ("nso", None, "not english, all or two languages"),
        ("nso-nso", None, "not english, all or two languages"),
        (",", None, "there is no such pair"),
        ("nso-en,msa-en", "nso-en", "named by --directions and by --zero-shot"),
        ("nso-en", "cat-nso", "nothing is trained on cat"),
        ("all", "nso-en,msa-nso,cat-nso", "nothing is trained on nso"),
        (None, "all,nso-en", "--zero-shot all"),
    ],
)
def test_bad_values(directions: str | None, zero_shot: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection(directions, zero_shot).of_languages(LANGUAGES, "english")


def test_of_files_only_what_is_there() -> None:
    there = ["fi-sv", "fi-en"]
    assert Selection().of_pairs(there) == Pairs(("fi-en", "fi-sv"))
    assert Selection("english").of_pairs(there) == Pairs(("fi-en",))
    with pytest.raises(UserError, match="no text of this pair"):
        Selection("sv-en").of_pairs(there)
    assert Pairs(("fi-sv",), ("fi-en",)).languages == ("en", "fi", "sv")
