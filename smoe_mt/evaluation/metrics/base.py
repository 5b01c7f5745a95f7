"""What a metric sees and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from smoe_mt.bleu_tokenizers import AUTO, tokenizer_for

if TYPE_CHECKING:
    from smoe_mt.tasks.pieces import FolderPieces


@dataclass(frozen=True)
class Corpus:
    """One direction of a split, raw text, line by line: the three have the same length.

    `pieces` splits text as the model does, for metrics that look at its pieces; `tokenize` is BLEU's tokenizer, `auto`: the
    target language's; `left_out`: how many more sentences the direction has.
    """

    direction: str
    sources: tuple[str, ...]
    hypotheses: tuple[str, ...]
    references: tuple[str, ...]
    pieces: FolderPieces | None = field(default=None, compare=False, repr=False)
    tokenize: str = AUTO
    left_out: int = 0

    @property
    def target_language(self) -> str:
        """The language of hypotheses and references."""
        return self.direction.split("-")[1]

    @property
    def tokenizer(self) -> str:
        """sacreBLEU's name of the tokenizer that BLEU takes."""
        return tokenizer_for(self.target_language) if self.tokenize == AUTO else self.tokenize

    def first(self, limit: int | None) -> Corpus:
        """The first `limit` sentences (None: all), without hypotheses."""
        sources, references = self.sources[:limit], self.references[:limit]
        left_out = self.left_out + len(self.sources) - len(sources)
        return replace(self, sources=sources, hypotheses=(), references=references, left_out=left_out)

    def translated(self, hypotheses: Sequence[str]) -> Corpus:
        """The same text with these hypotheses."""
        return replace(self, hypotheses=tuple(hypotheses))


@dataclass(frozen=True)
class Score:
    """`signature` says how the value was computed, for a metric that others compute too."""

    value: float
    signature: str | None = None


def needs_nothing() -> None:
    """The check of a metric that can be computed everywhere."""


def as_it_is(corpus: Corpus, lines: Sequence[str]) -> list[str]:
    """Text without any preparation."""
    return list(lines)


@dataclass(frozen=True)
class Pooling:
    """How sacreBLEU scores text of several directions as one: its object, what that sees of a direction's lines, and what
    the signature has to say besides.
    """

    scorer: Any
    prepare: Callable[[Corpus, Sequence[str]], list[str]]
    suffix: str = ""


@dataclass(frozen=True)
class Metric:
    """`name` is its key in scores.json, `title` its column in tables, shown with `decimals`."""

    name: str
    title: str
    meaning: str
    decimals: int
    #: None for a direction that the metric has no value for.
    compute: Callable[[Corpus], Score | None]
    #: Raises UserError, saying what to do, where the metric cannot be computed.
    check: Callable[[], None] = needs_nothing
    #: Computed only when asked for.
    optional: bool = False
    #: Makes sacreBLEU's object for text of a direction, for a metric of sacreBLEU's; these can be compared by resampling.
    scorer: Callable[[Corpus], Any] | None = None
    #: What that object sees of a corpus' hypotheses or references.
    prepare: Callable[[Corpus, Sequence[str]], list[str]] = as_it_is
    #: For a metric whose scorer differs between directions.
    pool: Callable[[Sequence[Corpus]], Pooling] | None = None
    #: Not in processes that share the directions: it holds much in memory, or uses a GPU.
    in_one_process: bool = False

    def pooled(self, corpora: Sequence[Corpus]) -> Pooling:
        """How text of one direction or several is scored as one."""
        assert self.scorer is not None
        return self.pool(corpora) if self.pool else Pooling(self.scorer(corpora[0]), self.prepare)
