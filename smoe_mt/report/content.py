"""What a report consists of, whatever it is written as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph; `missing`: what is not there, and what to do about it."""

    kind: ClassVar[str] = "text"
    text: str
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """Cells as text, the first column names the rows.

    name    what its files are called
    marked  numbers of the rows that stand out
    words   cells are no numbers
    best    row and column of the cells with the best value
    minor   columns that a narrow screen does without
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    name: str = "table"
    marked: frozenset[int] = frozenset()
    words: bool = False
    best: frozenset[tuple[int, int]] = frozenset()
    minor: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure: `svg` for a browser, `png` for what cannot show that, `pdf` for a paper (empty where an earlier version made
    the figure). `name` is that of its file.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
    pdf: bytes = b""


@dataclass(frozen=True)
class Code:
    """Text to be shown as it is, folded away."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Sentences:
    """Sentences with the visits of each token.

    runs  name of a run -> {"strata": most visits of a token, "blocks": [...], "directions": {direction: as in sentences.json}}
    """

    kind: ClassVar[str] = "sentences"
    runs: dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A sentence: why it was chosen, its line in the text, and each run's output with its sentence chrF++."""

    title: str
    line: int
    source: str
    reference: str
    outputs: Mapping[str, tuple[str, float]]


@dataclass(frozen=True)
class Examples:
    """Sentences of each direction; directions after the first `open` are folded."""

    kind: ClassVar[str] = "examples"
    directions: Mapping[str, Sequence[Example]]
    open: int


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Text | Table | Picture | Code | Sentences | Examples]

    @property
    def anchor(self) -> str:
        """The name that links use; no other element of a page begins so."""
        return "section-" + "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())
