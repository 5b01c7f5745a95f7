"""What the server and its worker process tell each other: plain values, which need neither torch nor fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ask:
    """Lines to translate in one direction.

    nbest     candidates of each line
    routing   tell the visits and experts of every token, too
    capacity  a setting of the capacity dial in place of the server's; None: as the server was started
    """

    lines: tuple[str, ...]
    source: str
    target: str
    nbest: int = 1
    routing: bool = False
    capacity: str | None = None

    @property
    def lane(self) -> tuple[bool, str | None]:
        """Asks of one lane can share batches."""
        return self.routing, self.capacity


@dataclass(frozen=True)
class Answer:
    """What became of one line: the candidates, best first, and what `routing` asked for.

    segments  of each sentence of the line, its candidates as plain values: text, score, and the tokens of both sides
    """

    texts: tuple[str, ...]
    segments: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the server has to know of its model.

    targets  language -> those that it can be translated into
    blocks   name of a MoE block -> the experts of each of its strata or layers
    strata   the most visits of a token to a block; 0 where routing cannot be told
    dial     whether the model has a capacity dial
    beam     the most candidates of a line
    """

    name: str
    targets: dict[str, tuple[str, ...]]
    blocks: dict[str, tuple[int, ...]]
    strata: int
    dial: bool
    beam: int


class WorkerLost(Exception):
    """The worker process has ended, whatever the reason."""


class CannotAnswer(Exception):
    """The model cannot do what an `Ask` wants; the message is for the one who asked."""
