"""The folder that `smoe-mt prepare` writes: its parts, checked when it is opened.

Everything is found relative to the folder, so that it can be moved or copied to another machine. No file is used before
`verification` has found it to be what was prepared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from smoe_mt.checksums import is_intact
from smoe_mt.errors import UserError
from smoe_mt.files import checked_name
from smoe_mt.inputs import no_such
from smoe_mt.json_files import read_json
from smoe_mt.json_forms import Named, fits
from smoe_mt.language_codes import CODE
from smoe_mt.paths import check_utf8
from smoe_mt.tasks.token_file import TokenFile
from smoe_mt.tasks.verification import Expected, verify

FORMAT = 1
DIRECTION = re.compile(rf"{CODE.pattern}-{CODE.pattern}")
SPLIT = re.compile(r"\w[\w-]*")
PARTS = ("directions.txt", "dict.txt", "spm.model")
LARGEST_PART = 1 << 28  # bytes: a hundred times the largest vocabulary in use
DIGITS = 18  # of a count
TRAINING = "train"
#: What is used of corpus.json.
CARD_FORM = {
    "pairs": [str],
    "splits": Named(Named(int)),
    "languages?": [str],
    "vocab_size?": int,
    "checksums?": (Named(str), type(None)),
    "sources?": [{"pairs?": (Named(int), type(None))}],
}


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
    #: All of corpus.json.
    card: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Read and check a data folder, the text aside; UserError says which part of it is missing or wrong."""
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{no_such(path, 'data folder')}; make one with `smoe-mt prepare`")
        check_utf8(path)
        card = _read_card(path)
        for part in PARTS:
            if not (path / part).is_file():
                raise UserError(f"{path / part} is missing: prepare the data folder again")
            if (path / part).stat().st_size > LARGEST_PART:
                raise UserError(f"{path / part} has more than {LARGEST_PART:,} bytes: prepare the data folder again")
        verify(path, [_expected(card, part) for part in PARTS])
        directions = _read_directions(path / "directions.txt")
        pairs = tuple(card["pairs"])
        for direction in directions:
            if _pair_of(direction, pairs) is None:
                raise UserError(f"{path}: directions.txt names {direction}, but corpus.json has no such pair")
        languages = tuple(sorted({language for direction in directions for language in split_direction(direction)}))
        return cls(path, directions, languages, pairs, card["splits"], card)

    def verify_text(self, split: str, names: Iterable[str]) -> None:
        """UserError unless the binarised files of these pairs (or directions) in a split are what was prepared."""
        if not any(self.path.glob("*.idx")):
            raise UserError(
                f"{self.path} has no text, as exported models have none: name a data folder (--data; of a training task.data)"
            )
        verify(self.path, self._text_of(split, names))

    def verify_anew(self) -> None:
        """Read all of the folder, whatever is remembered of it. UserError for a file that is not what was prepared.

        A folder may be handed on without its text, or that of a split; where it has some of it, it must have all.
        """
        files = [_expected(self.card, part) for part in PARTS]
        for split, counts in self.counts.items():
            text = self._text_of(split, counts)
            if split != TRAINING:
                text += [_expected(self.card, f"text/{split}.{pair}.{one}") for pair in counts for one in _both(pair)]
            if any((self.path / one.name).exists() for one in text):
                files += text
        verify(self.path, files, anew=True)

    def _text_of(self, split: str, names: Iterable[str]) -> list[Expected]:
        """An index comes before what it says the places of."""
        prefixes = [f"{split}.{pair}.{one}" for pair in dict.fromkeys(map(self.pair_of, names)) for one in _both(pair)]
        files: list[Expected] = []
        for prefix in prefixes:
            files.append(_expected(self.card, f"{prefix}.idx"))
            files.append(_expected(self.card, f"{prefix}.bin", self._vocabulary))
        return files

    @cached_property
    def _vocabulary(self) -> int:
        return len(self.dictionary())

    def open_text(self, split: str, pair: str, language: str) -> TokenFile:
        """The binarised sentences of one side of a pair (or direction). UserError where their number is another than
        corpus.json says.
        """
        prefix = self.prefix(split, pair, language)
        file = TokenFile(prefix)
        if len(file) != self.count(split, pair):
            raise UserError(
                f"{prefix}.idx has {len(file):,} sentences, but corpus.json says {self.count(split, pair):,}: "
                "prepare the data folder again"
            )
        return file

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
        verify(self.path, [_expected(self.card, f"text/{path.name}")])
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
        _check_dictionary(path)
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


def _both(pair: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(split_direction(pair)))


def _expected(card: Mapping[str, Any], name: str, vocabulary: int | None = None) -> Expected:
    """What corpus.json says of a file. UserError where it has checksums, but none of this one."""
    checksums = card.get("checksums") or {}
    if checksums and name not in checksums:
        raise UserError(
            f"corpus.json has no checksum of {name}: it was not prepared with it; prepare the data folder again"
        )
    return Expected(name, checksums.get(name), vocabulary)


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
            f"{path} has no corpus.json: preparing it did not finish; run `smoe-mt prepare` again to finish it"
        )
    card = read_json(file, "prepare the data folder again")
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{file}: not a data folder of format {FORMAT}; prepare it again with this version of smoe-mt")
    if not is_intact(card):
        raise UserError(f"{file} is not what was prepared (its own SHA-256 differs): prepare the data folder again")
    if not card.get("pairs") or not isinstance(card.get("splits"), dict):
        raise UserError(f"{file} names no pairs or no splits: prepare the data folder again")
    nonsense = UserError(f"{file}: pairs, splits, checksums or sources make no sense: prepare the data folder again")
    if not fits(card, CARD_FORM):
        raise nonsense
    for name in (*card["pairs"], *card["splits"]):
        checked_name(name, file)  # parts of the names of files
    if not _is_sound(card):
        raise nonsense
    return card


def _is_sound(card: Mapping[str, Any]) -> bool:
    """Whether corpus.json names pairs and splits as `prepare` does."""
    pairs = card["pairs"]
    if not all(map(DIRECTION.fullmatch, pairs)):
        return False
    return all(
        SPLIT.fullmatch(split) and all(pair in pairs and count >= 0 for pair, count in counts.items())
        for split, counts in card["splits"].items()
    )


def _check_dictionary(path: Path) -> None:
    """What fairseq's own reader would not say, or only in a trace."""
    symbols: set[bytes] = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        symbol, _, count = line.removesuffix(b" #fairseq:overwrite").rpartition(b" ")
        if not symbol or not count.isdigit() or len(count) > DIGITS:
            raise UserError(f"{path}, line {number}: not a piece and its count; prepare the data folder again")
        if symbol in symbols:
            raise UserError(f"{path}, line {number}: names a piece twice; prepare the data folder again")
        symbols.add(symbol)


def _read_directions(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8; prepare the data folder again") from error
    directions = tuple(line for line in lines if line)
    for direction in directions:
        if not DIRECTION.fullmatch(direction):
            raise UserError(f"{path}: {direction[:80]!r} is not a direction like nso-en")
    if len(set(directions)) < len(directions):
        raise UserError(f"{path} names a direction twice: prepare the data folder again")
    if not directions:
        raise UserError(f"{path} is empty: prepare the data folder again")
    return directions
