"""The folder that `smoe-mt prepare` writes: what lies in it, checked at the door.

Everything is found relative to the folder, so that it can be moved or copied to another machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json

FORMAT = 1
DIRECTION = re.compile(r"[A-Za-z]{2,8}(?:_[A-Za-z0-9]+)*-[A-Za-z]{2,8}(?:_[A-Za-z0-9]+)*")
PARTS = ("directions.txt", "dict.txt", "spm.model")


def language_tag(language: str) -> str:
    """The token in front of the source that asks for a translation into `language`."""
    return f"<2{language}>"


def split_direction(direction: str) -> tuple[str, str]:
    """Source and target language of a direction: "nso-en" -> ("nso", "en")."""
    source, _, target = direction.partition("-")
    return source, target


@dataclass(frozen=True)
class DataFolder:
    """A complete data folder. Made by `DataFolder.open`, which raises UserError for one that is not complete."""

    path: Path
    #: All directions, in the order of directions.txt.
    directions: tuple[str, ...]
    #: Sorted language codes.
    languages: tuple[str, ...]
    #: Unordered couples of languages, each stored once, as "cat-en".
    pairs: tuple[str, ...]
    #: Sentence pairs: split -> pair -> count.
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Read and check a data folder; UserError says which part of it is missing or wrong."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such data folder; make one with `smoe-mt prepare`")
        card = _read_card(path)
        for part in PARTS:
            if not (path / part).is_file():
                raise UserError(f"{path / part} is missing: prepare the data folder again")
        directions = _read_directions(path / "directions.txt")
        pairs = tuple(card["pairs"])
        for direction in directions:
            if _pair_of(direction, pairs) is None:
                raise UserError(f"{path}: directions.txt names {direction}, but corpus.json has no such pair")
        languages = tuple(sorted({language for direction in directions for language in split_direction(direction)}))
        return cls(path, directions, languages, pairs, card["splits"])

    def check_direction(self, direction: str) -> None:
        """UserError, naming the known ones, unless the folder has `direction`."""
        if direction not in self.directions:
            raise UserError(
                f"unknown direction {direction!r}: {self.path} has {', '.join(self.directions)}"
                + ("" if DIRECTION.fullmatch(direction) else " (a direction is SOURCE-TARGET)")
            )

    def check_language(self, language: str) -> None:
        """UserError, naming the known ones, unless the folder has `language`."""
        if language not in self.languages:
            raise UserError(f"unknown language {language!r}: {self.path} has {', '.join(self.languages)}")

    def pair_of(self, direction: str) -> str:
        """The name under which the files of a direction (or pair) are stored: "en-nso" -> "nso-en" or "en-nso"."""
        pair = _pair_of(direction, self.pairs)
        if pair is None:
            raise UserError(f"unknown direction {direction!r}: {self.path} has {', '.join(self.directions)}")
        return pair

    def splits(self) -> tuple[str, ...]:
        """Names of the splits that at least one pair has."""
        return tuple(split for split, counts in self.counts.items() if counts)

    def check_split(self, split: str) -> None:
        """UserError, naming the known ones, unless the folder has `split`."""
        if split not in self.splits():
            raise UserError(f"unknown subset {split!r}: {self.path} has {', '.join(self.splits())}")

    def has(self, split: str, pair: str) -> bool:
        """Whether the pair (or direction) has text in the split."""
        return self.pair_of(pair) in self.counts.get(split, {})

    def count(self, split: str, pair: str) -> int:
        """Sentence pairs of a pair (or direction) in a split, 0 where it has none."""
        return int(self.counts.get(split, {}).get(self.pair_of(pair), 0))

    def prefix(self, split: str, pair: str, language: str) -> Path:
        """Path of a binarised file, without .bin and .idx."""
        return self.path / f"{split}.{self.pair_of(pair)}.{language}"

    def references(self, split: str, direction: str, side: str = "target") -> list[str]:
        """Raw sentences of a direction, line i of which belongs to sentence i of the binarised file.

        `side`: "target" (the references) or "source". UserError where the folder has none, or has another number of them.
        """
        language = split_direction(direction)[1 if side == "target" else 0]
        path = self.path / "text" / f"{split}.{self.pair_of(direction)}.{language}"
        if not path.is_file():
            raise UserError(
                f"{path} is missing: the raw sentences of {split} {direction} are needed as references; an exported model "
                "has none, so name the data folder with --data"
            )
        try:
            text = path.read_bytes().decode("utf-8")  # a carriage return may be part of a sentence
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not valid UTF-8 at byte {error.start}; prepare the data folder again") from error
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        if len(lines) != self.count(split, direction):
            raise UserError(
                f"{path} has {len(lines)} lines, but corpus.json says {self.count(split, direction)}; "
                "prepare the data folder again"
            )
        return lines

    @property
    def spm_path(self) -> Path:
        """The SentencePiece model."""
        return self.path / "spm.model"

    def dictionary(self) -> Any:
        """The fairseq Dictionary of dict.txt. UserError for one that cannot be read or lacks a language's tag."""
        from fairseq.data import Dictionary

        path = self.path / "dict.txt"
        try:
            dictionary = Dictionary.load(str(path))
        except Exception as error:  # fairseq raises several types, plain Exception among them
            raise UserError(f"{path}: not a dictionary of fairseq ({error}); prepare the data folder again") from error
        for language in self.languages:
            if language_tag(language) not in dictionary:
                raise UserError(f"{path} has no {language_tag(language)}: prepare the data folder again")
        expected = self.card.get("vocab_size", len(dictionary))
        if len(dictionary) != expected:
            raise UserError(
                f"{path} has {len(dictionary):,} entries, but corpus.json says {expected:,}: prepare the data folder again"
            )
        return dictionary

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """All of corpus.json."""
        return _read_card(self.path)


def _pair_of(direction: str, pairs: tuple[str, ...]) -> str | None:
    if direction in pairs:
        return direction
    source, target = split_direction(direction)
    reverse = f"{target}-{source}"
    return reverse if reverse in pairs else None


def _read_card(path: Path) -> dict[str, Any]:
    file = path / "corpus.json"
    if not file.is_file():
        raise UserError(
            f"{path} has no corpus.json: preparing it did not finish; run `smoe-mt prepare` again, it goes on"
        )
    card = read_json(file, "prepare the data folder again")
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{file}: not a data folder of format {FORMAT}; prepare it again with this version of smoe-mt")
    if not card.get("pairs") or not isinstance(card.get("splits"), dict):
        raise UserError(f"{file} names no pairs or no splits: prepare the data folder again")
    return card


def _read_directions(path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    directions = tuple(line for line in lines if line)
    for direction in directions:
        if not DIRECTION.fullmatch(direction):
            raise UserError(f"{path}: {direction!r} is not a direction like nso-en")
    if not directions:
        raise UserError(f"{path} is empty: prepare the data folder again")
    return directions
