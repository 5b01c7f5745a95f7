"""Language codes: letters, then script and region after underscores ("nso", "pt_BR", "zho_Hans")."""

from __future__ import annotations

import re

ENGLISH = "en"
CODE = re.compile(r"[A-Za-z]{2,8}(?:_[A-Za-z0-9]+)*")
# A code as BCP 47 writes it: script Hans, region BR or 419. Upper case tells its parts from a second language's code.
_TAGGED = r"[a-z]{2,8}(?:[-_](?:[A-Z][a-z]{3}|[A-Z]{2}|[0-9]{3}))*"
_PAIR = re.compile(rf"({_TAGGED})-({_TAGGED})")
_PLAIN_PAIR = re.compile(rf"({CODE.pattern})-({CODE.pattern})")


def canonical(code: str) -> str:
    """A code as it stands in names here: "pt_BR" for "pt-BR", since a hyphen stands between the two languages of a pair."""
    return code.replace("-", "_")


def is_english(code: str) -> bool:
    """Whether a code is English, whatever its script and region: en, eng, eng_Latn, en_GB."""
    return code.split("_")[0].lower() in ("en", "eng")


def parse_pair(name: str) -> tuple[str, str] | None:
    """The canonical codes of "nso-en", "zho_Hans-eng_Latn", "pt-BR-en"; None for what is no pair, or could be two."""
    match = _PLAIN_PAIR.fullmatch(name) or _PAIR.fullmatch(name)
    return (canonical(match[1]), canonical(match[2])) if match else None


def direction_name(name: str) -> str:
    """A direction as a data folder has it: "pt_BR-en" for "pt-BR-en"; what is no direction comes back as it is."""
    languages = parse_pair(name)
    return "-".join(languages) if languages else name


def pair_name(a: str, b: str) -> str:
    """The one name under which a pair of languages is stored: English last, others in alphabetical order."""
    first, second = sorted((a, b), key=lambda language: (is_english(language), language))
    return f"{first}-{second}"
