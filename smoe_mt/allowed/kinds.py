"""Types of values: each states in words what it accepts, and parses a value from a config, a flag or an override.

No torch here, nor anything that is slow to import: a wrong flag is reported at once.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from smoe_mt.ranges import LONGEST_TEXT, MOST_BLOCKS, MOST_EXPERTS, Range

TRUE, FALSE = ("y", "yes", "on", "t", "true", "1"), ("n", "no", "off", "f", "false", "0")  # as OmegaConf reads them


class NotAllowed(ValueError):
    """A value that its kind does not take."""


class Kind(Protocol):
    """A type of values."""

    @property
    def wanted(self) -> str:
        """What is allowed, as the end of "must be ..."."""

    def read(self, value: object) -> Any:
        """The value, made of text where it is text. ValueError or OverflowError for one that is not allowed."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`, both allowed. 1.5, true and 1e3 are none."""

    low: int = 0
    high: int = 2**31 - 1

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"a whole number from {self.low:,} to {self.high:,}"

    def read(self, value: object) -> int:
        """An int."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise NotAllowed
        return _within(int(value), self.low, self.high)


@dataclass(frozen=True)
class Real:
    """Finite numbers from `low` to `high`; `above` and `below`: the bound itself is not allowed."""

    low: float = 0.0
    high: float = 1e9
    above: bool = False
    below: bool = False

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"a number {low} {'to below' if self.below else 'to'} {self.high:g}"

    def read(self, value: object) -> float:
        """A float."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise NotAllowed
        number = _within(float(value), self.low, self.high)
        if (self.above and number == self.low) or (self.below and number == self.high):
            raise NotAllowed
        return number


@dataclass(frozen=True)
class Flag:
    """True or false, in the words that YAML has for them."""

    wanted: str = "true or false"

    def read(self, value: object) -> bool:
        """A bool."""
        text = str(value).lower()
        if isinstance(value, bool | int | str) and text in (*TRUE, *FALSE):
            return text in TRUE
        raise NotAllowed


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"one of {', '.join(self.names)}"

    def read(self, value: object) -> str:
        """A str."""
        text = str(value).lower() if isinstance(value, bool) else value
        if text == "false" and "off" in self.names:  # YAML's own reading of off and on
            text = "off"
        if text == "true" and "on" in self.names:
            text = "on"
        if text not in self.names:
            raise NotAllowed
        return str(text)


@dataclass(frozen=True)
class Text:
    """Any text of a sensible length, also where YAML makes a number of it; not empty unless `empty`."""

    empty: bool = False

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"text on one line, of {0 if self.empty else 1} to {LONGEST_TEXT:,} letters"

    def read(self, value: object) -> str:
        """A str."""
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise NotAllowed
        text = str(value)
        if len(text) > LONGEST_TEXT or any(ord(letter) < 32 for letter in text) or not (text.strip() or self.empty):
            raise NotAllowed
        return text


@dataclass(frozen=True)
class Path(Text):
    """Text that names a file or a folder."""

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"a path of {0 if self.empty else 1} to {LONGEST_TEXT:,} letters, on one line"


@dataclass(frozen=True)
class Several:
    """A list of values of a kind, or one alone in place of a list of one; as text, 1,2 or [1,2] or (1,2)."""

    of: Kind
    most: int = 1000
    least: int = 1

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        if self.least == self.most:
            return f"a list of {self.least} values, each {self.of.wanted}"
        return f"{self.of.wanted}, or a list of such"

    def read(self, value: object) -> list[Any]:
        """A list."""
        parts = parts_of(value)
        if not self.least <= len(parts) <= self.most:
            raise NotAllowed
        return [self.of.read(part) for part in parts]


@dataclass(frozen=True)
class Experts:
    """Numbers of experts: one, or a list of them (4,12); of each block by itself 4,4;8 or a list of lists."""

    wanted: str = "a whole number from 1, or a list of such (4,12; of each block by itself 4,4;8 or [[4,4],[8]])"

    def read(self, value: object) -> int | list[Any]:
        """An int, a list of ints or a list of such lists."""
        blocks = [parts_of(block) for block in value.split(";")] if isinstance(value, str) and ";" in value else value
        by_block = isinstance(blocks, list | tuple) and all(isinstance(block, list | tuple) for block in blocks)
        if isinstance(blocks, list | tuple) and by_block and 0 < len(blocks) <= MOST_BLOCKS:
            return [self._of_block(block) for block in blocks]
        found = self._of_block(blocks)
        return found[0] if len(found) == 1 else found

    def _of_block(self, value: object) -> list[int]:
        number = Whole(1, MOST_EXPERTS)
        parts = parts_of(value)
        if not 0 < len(parts) <= MOST_BLOCKS:
            raise NotAllowed
        return [number.read(one) for one in parts]


@dataclass(frozen=True)
class Maybe:
    """Values of a kind, or none (null, an empty list)."""

    of: Kind

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"{self.of.wanted}, or null"

    def read(self, value: object) -> Any:
        """None, or what the kind reads."""
        return None if value is None or value in ("null", "None") else self.of.read(value)


@dataclass(frozen=True)
class Either:
    """One of several kinds."""

    kinds: tuple[Kind, ...]

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return ", or ".join(kind.wanted for kind in self.kinds)

    def read(self, value: object) -> Any:
        """What the first kind that takes it reads."""
        for kind in self.kinds:
            try:
                return kind.read(value)
            except (ValueError, OverflowError):
                continue
        raise NotAllowed


@dataclass(frozen=True)
class Only:
    """The one value that works here; `why` says what stands against others."""

    value: object
    why: str

    @property
    def wanted(self) -> str:
        """As in a sentence."""
        return f"{'null' if self.value is None else str(self.value).lower()}: {self.why}"

    def read(self, value: object) -> Any:
        """That value."""
        if isinstance(self.value, bool):
            value = Flag().read(value)
        if value != self.value and str(value) != str(self.value):
            raise NotAllowed
        return self.value


@dataclass(frozen=True)
class Table:
    """A mapping of names to plain values, as Python or YAML write one."""

    wanted: str = "a mapping of plain values, such as {'weight_decay': 0.1}"

    def read(self, value: object) -> dict[str, Any]:
        """A dict."""
        found = literal(value) if isinstance(value, str) else value
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise NotAllowed
        return found


def whole(allowed: Range) -> Whole:
    """Whole numbers in a range."""
    return Whole(int(allowed.low), int(allowed.high))


def real(allowed: Range) -> Real:
    """Finite numbers in a range."""
    return Real(allowed.low, allowed.high, allowed.open_low, allowed.open_high)


def is_path(kind: Kind) -> bool:
    """Whether values of this kind name files or folders."""
    return isinstance(kind.of if isinstance(kind, Maybe) else kind, Path)


def refusal(kind: Kind, value: object) -> str | None:
    """None for a value that is allowed, else what must be."""
    try:
        kind.read(value)
    except (ValueError, OverflowError, RecursionError, MemoryError):
        return f"must be {kind.wanted}"
    return None


def shown(value: object, longest: int = 60) -> str:
    """A value as it stands in a message: on one line, not too long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[: 4 * longest])
    return text if len(text) <= longest else text[:longest] + "..."


def parts_of(value: object) -> Sequence[object]:
    """The elements of a list or of text that stands for one; of anything else, itself."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] + text[-1:] in ("[]", "()"):
            text = text[1:-1]
        return [part.strip() for part in text.removesuffix(",").split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def literal(text: str) -> object:
    """What a Python literal means. ValueError for text that is none."""
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error


def _within(number: Any, low: float, high: float) -> Any:
    if not math.isfinite(number) or not low <= number <= high:
        raise NotAllowed
    return number
