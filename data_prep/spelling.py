"""How much of a language the vocabulary can write: held-out text is encoded into pieces and decoded again.

A sentence that the trip changes cannot be produced by any model of this vocabulary, so its share bounds what can be scored.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from data_prep.corpora.base import TRAIN
from data_prep.files import say
from data_prep.rows import languages_of, read_rows

WORTH_A_WARNING = 0.01  # share of a language's sentences
CHARACTERS_NAMED = 3


@dataclass(frozen=True)
class Spelling:
    """Sentences of a language, how many of them the trip changes, and the characters that get lost most, with counts."""

    sentences: int
    changed: int
    lost: list[tuple[str, int]]

    @property
    def share(self) -> float:
        """Sentences changed, 0 to 1."""
        return self.changed / max(self.sentences, 1)


def measure(model: bytes, sentences: Iterable[str]) -> Spelling:
    """What a SentencePiece model changes in normalised sentences."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    count = changed = 0
    lost: Counter[str] = Counter()
    for sentence in sentences:
        count += 1
        written = pieces.decode(pieces.encode(sentence))
        if written != sentence:
            changed += 1
            lost.update(Counter(sentence) - Counter(written))
    return Spelling(count, changed, [(name_of(one), times) for one, times in lost.most_common(CHARACTERS_NAMED)])


def name_of(character: str) -> str:
    """ "U+200C ZERO WIDTH NON-JOINER"."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"


def measure_held_out(model: bytes, divided: Path) -> dict[str, dict[str, Any]]:
    """`Spelling` of each language, as plain values, on its held-out sentences in ``divided/{split}.{pair}.tsv``."""
    texts: dict[str, list[tuple[Path, int]]] = {}
    for path in sorted(divided.glob("*.tsv")):
        split, pair = path.stem.split(".")
        if split != TRAIN:
            for column, language in enumerate(languages_of(pair), 1):
                texts.setdefault(language, []).append((path, column))
    return {
        language: asdict(measure(model, (str(row[column]) for path, column in files for row in read_rows(path))))
        for language, files in sorted(texts.items())
    }


def warn(found: Mapping[str, Mapping[str, Any]], normalisation: str) -> None:
    """Say which languages the vocabulary cannot write, and what to do."""
    for language, value in found.items():
        spelling = Spelling(**value)
        if spelling.share > WORTH_A_WARNING:
            characters = ", ".join(name for name, _ in spelling.lost) or "changed order"
            remedy = "" if normalisation == "identity" else "; --normalisation identity keeps them"
            say(
                f"warning: {language}: the vocabulary cannot write {spelling.share:.0%} of {spelling.sentences:,} held-out "
                f"sentences as they are (lost: {characters}){remedy}"
            )
