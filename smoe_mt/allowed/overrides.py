"""Hydra overrides, checked one by one before anything is composed: key, value, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from smoe_mt.allowed.keys import KEYS
from smoe_mt.allowed.kinds import Either, Experts, Kind, Maybe, Several, is_path, refusal, shown
from smoe_mt.errors import UserError
from smoe_mt.paths import expanded

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def checked(overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """The overrides in Hydra's own grammar: where a key takes a list, a number alone becomes one (``optimization.lr=0.1``),
    what the grammar would misread is quoted (``optimizer.adam_betas=(0.9,0.98)``, ``task.directions=a-b,b-a``), and paths are
    taken letter by letter, with the home folder for ``~``.

    `multirun`: commas part the values of a sweep. Raises UserError for one that is no override, and for a value that its key
    does not take.
    """
    return [_checked(text, multirun) for text in overrides]


def quoted(text: str) -> str:
    """Text as Hydra's grammar takes it letter by letter. ``${`` still begins a reference to another setting."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def values_of(text: str) -> list[Any]:
    """The value of an override, or all those of its sweep. UserError for what Hydra cannot read."""
    return list(_values(_parsed(text)))


def first_of_sweeps(overrides: Sequence[str]) -> list[str]:
    """The overrides of the first job of a multirun; sweeps that Hydra alone can draw from are left out."""
    found = []
    for text in overrides:
        override = _parsed(text)
        if not override.is_sweep_override():
            found.append(text)
        elif override.is_choice_sweep() or override.is_range_sweep():
            found.append(f"{text.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}")
    return found


def _checked(text: str, multirun: bool) -> str:
    if any(ord(letter) < 32 or "\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{shown(text)}: an override is KEY=VALUE, on one line and in UTF-8")
    if "=" not in text and not text.startswith("~"):
        raise UserError(f"{shown(text)!r} is no override: those are KEY=VALUE, such as model=dense")
    left, _, raw = text.partition("=")
    key = left.lstrip("+~")
    kind = KEYS.get(key)
    if left.startswith("~"):
        _parsed(text)
        return text
    try:
        override = _parsed(text)
    except UserError:
        if kind is None:
            raise
        if multirun and "," in raw and is_path(kind):
            raise UserError(
                f"{shown(text)}: in a sweep commas part the values; put quotes around each, as in {key}=\"'a','b'\""
            ) from None
        check(key, raw, kind)
        return f"{left}={_in_grammar(raw, kind)}"
    if kind is None:
        return text
    if is_path(kind):
        return f"{left}={_paths(override, raw, kind, multirun)}"
    if override.is_sweep_override() and not multirun:
        check(key, raw, kind)
        return f"{left}={_in_grammar(raw, kind)}"
    values = list(_values(override))
    for value in values:
        check(key, value, kind)
    if isinstance(kind, Maybe) and isinstance(kind.of, Either) and any(isinstance(value, list) for value in values):
        texts = (",".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        return f"{left}={','.join(map(quoted, texts))}"  # the setting itself is text with commas
    if _takes_list(kind) and values and all(_is_number(value) for value in values):
        return f"{left}={','.join(f'[{value}]' for value in values)}"
    return text


def _in_grammar(raw: str, kind: Kind) -> str:
    if isinstance(kind, Several | Experts):
        return str(kind.read(raw)).replace(" ", "")
    return quoted(expanded(raw) if is_path(kind) else raw)


def _paths(override: Override, raw: str, kind: Kind, multirun: bool) -> str:
    """The value of a key that takes a path, or several of a sweep: what a person wrote, unless Hydra's quotes are around it."""
    swept = override.is_sweep_override() and multirun
    if swept and not override.is_choice_sweep():
        return raw
    values = list(_values(override)) if swept else [_path(override, raw)]
    for value in values:
        check(override.key_or_group, value, kind)
    return ",".join("null" if value is None else quoted(expanded(str(value))) for value in values)


def _path(override: Override, raw: str) -> str | None:
    """Numbers, lists and the like are names of files here: 007, [a]."""
    value = None if override.is_sweep_override() else override.value()
    if value is None and raw.lower() == "null":
        return None
    is_marked = raw[:1] in ("'", '"') or "\\" in raw
    return value if isinstance(value, str) and is_marked else raw


def _takes_list(kind: Kind) -> bool:
    return isinstance(kind, Several) and kind.least == 1


def check(key: str, value: object, kind: Kind) -> None:
    """UserError for a value that its key does not take. References to other keys are checked once they are resolved."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        return
    wrong = refusal(kind, value)
    if wrong:
        raise UserError(f"{key}={shown(value)}: it {wrong}")


def _parsed(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, RecursionError, ValueError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{shown(text)}: Hydra cannot read this override ({shown(what)}); put quotes around its value"
        ) from error


def _values(override: Override) -> Iterator[Any]:
    """The value, or all of a sweep's."""
    if not override.is_sweep_override():
        yield _plain(override.value())
        return
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        return  # of groups of configs, or for sweepers that draw
    for text in override.sweep_string_iterator():
        yield _plain(_parsed(f"x={text}").value())


def _plain(value: Any) -> Any:
    """Without the marks of Hydra's parser."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
