"""What is to be translated: lines of one direction, and how their translations have to begin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smoe_mt.errors import UserError


@dataclass(frozen=True)
class Text:
    """Lines to translate, and their direction; `prefixes`: how the translation of each has to begin, none where empty."""

    lines: Sequence[str]
    source: str
    target: str
    prefixes: Sequence[str] = ()

    @classmethod
    def of(cls, lines: Iterable[str], source: str, target: str, prefix: str | Iterable[str] | None = None) -> Text:
        """`prefix`: one for all lines, or one for each. UserError for what is no sequence of texts, or too few of them."""
        listed = _listed(lines, "lines")
        if prefix is None:
            return cls(listed, source, target)
        prefixes = [prefix] * len(listed) if isinstance(prefix, str) else _listed(prefix, "prefix")
        if len(prefixes) != len(listed):
            raise UserError(f"prefix: {len(prefixes)} for {len(listed)} lines; give one text, or one for each line")
        return cls(listed, source, target, prefixes)


def _listed(lines: Iterable[str], name: str) -> list[str]:
    """UserError, with the argument's name, for what is no sequence of texts."""
    if isinstance(lines, (str, bytes)):
        raise UserError(f"{name}: give a list of sentences, such as [{str(lines[:20])!r}], not one text")
    try:
        listed = list(lines)
    except TypeError as error:
        raise UserError(f"{name}: give a list of sentences, not {type(lines).__name__}") from error
    for number, line in enumerate(listed):
        if not isinstance(line, str):
            raise UserError(f"{name}[{number}]: must be text, not {type(line).__name__}")
    return listed
