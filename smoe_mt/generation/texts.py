"""What is to be translated: lines of one direction, and how their translations have to begin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from smoe_mt.errors import UserError
from smoe_mt.language_codes import canonical

_SURROGATE = re.compile(r"[\ud800-\udfff]")


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
        source, target = (canonical(one) if isinstance(one, str) else one for one in (source, target))
        listed = _listed(lines, "lines")
        if prefix is None:
            return cls(listed, source, target)
        if isinstance(prefix, str):
            prefix = _listed([prefix], "prefix") * len(listed)
        prefixes = _listed(prefix, "prefix")
        if len(prefixes) != len(listed):
            raise UserError(f"prefix: {len(prefixes)} for {len(listed)} lines; give one text, or one for each line")
        return cls(listed, source, target, prefixes)


def each_line(lines: Iterable[str], name: str = "lines") -> Iterator[str]:
    """The lines, checked one by one: UserError, with the argument's name, for what is no sequence of texts, at once where
    that can be told without reading one. An error of the caller's own generator passes."""
    if isinstance(lines, (str, bytes, bytearray)):
        example = lines if isinstance(lines, str) else lines.decode("utf-8", "replace")
        raise UserError(f"{name}: give a list of sentences, such as [{example[:20]!r}], not one text")
    if isinstance(lines, (Mapping, AbstractSet)):  # without an order, or not the keys that are meant
        raise UserError(f"{name}: give a list of sentences, not {type(lines).__name__}")
    try:
        each = iter(lines)
    except TypeError as error:
        raise UserError(f"{name}: give a list of sentences, not {type(lines).__name__}") from error
    return (_checked(line, f"{name}[{number}]") for number, line in enumerate(each))


def _listed(lines: Iterable[str], name: str) -> list[str]:
    return list(each_line(lines, name))


def _checked(line: object, name: str) -> str:
    if not isinstance(line, str):
        raise UserError(f"{name}: must be text, not {type(line).__name__}")
    if _SURROGATE.search(line):
        raise UserError(f"{name}: {line[:30]!a} is no text: it holds half of a character, or bytes that are not UTF-8")
    return line
