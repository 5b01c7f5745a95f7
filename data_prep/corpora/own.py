"""The user's own text: files of a folder, named after their pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.clean import PLACEHOLDERS
from data_prep.compressed import SUFFIXES, UNREAD, raw_lines
from data_prep.corpora.base import TRAIN, Request, SourceRecord
from data_prep.directions import Pairs
from data_prep.files import check_space, say
from data_prep.rows import Row, languages_of, write_rows
from smoe_mt.checksums import sha256_file
from smoe_mt.errors import UserError
from smoe_mt.inputs import no_such
from smoe_mt.language_codes import pair_name
from smoe_mt.paper.benchmarks import Benchmark
from smoe_mt.paths import expanded
from smoe_mt.text import normalise

SPLITS = {None: TRAIN, "train": TRAIN, "valid": "valid", "dev": "valid", "test": "test"}
COPIES_OF_THE_TEXT = 4  # extracted, clean, split, binarised
BYTES_A_COMPRESSED_ONE = 3
BAD_LINES_SHOWN = 3
MOST_BAD_LINES = 0.01  # share of a file's lines
NO_TEXT = re.compile(
    r"(?i)\..*|(readme|licen[cs]e|copying|notice|changelog|citation)\b.*|.*\.(md|json|yaml|yml|html|pdf|sha256|py|sh)"
)


@dataclass(frozen=True)
class Part:
    """Text of a pair's split: the files that hold it, and whether they have the pair's languages the other way round."""

    paths: tuple[Path, ...]
    pair: str
    split: str
    swapped: bool

    @classmethod
    def of(cls, paths: tuple[Path, ...], languages: tuple[str, str], split: str | None) -> Part:
        """UserError for two languages that are one."""
        if languages[0] == languages[1]:
            raise UserError(f"{paths[0]}: the same language twice; name the file after two languages")
        pair = pair_name(*languages)
        return cls(paths, pair, SPLITS[split], pair != "-".join(languages))

    @property
    def name(self) -> str:
        """Of its files, for people."""
        return " + ".join(path.name for path in self.paths)


def _size(path: Path) -> int:
    """Bytes of text, about."""
    return path.stat().st_size * (BYTES_A_COMPRESSED_ONE if path.suffix in SUFFIXES else 1)


class BadLines:
    """Lines of a part that cannot be read: the first is an error, or, where they are skipped, all are counted and the
    first ones shown.
    """

    def __init__(self, skip: bool) -> None:
        self.skip, self.count = skip, 0

    def found(self, message: str) -> None:
        """One more; UserError unless bad lines are skipped."""
        if not self.skip:
            raise UserError(f"{message} (--bad-lines skip leaves such lines out)")
        self.count += 1
        if self.count <= BAD_LINES_SHOWN:
            say(f"skipped: {message}")

    def check(self, part: Part, good: int) -> None:
        """Print their number; UserError if there are so many that the file must be something else."""
        if self.count > MOST_BAD_LINES * (self.count + good):
            raise UserError(
                f"{part.name}: {self.count:,} of {self.count + good:,} lines cannot be read, more than "
                f"{MOST_BAD_LINES:.0%}; correct the file or remove it"
            )
        if self.count:
            say(f"{part.name}: {self.count:,} of {self.count + good:,} lines skipped")


Read = Callable[[Part, BadLines], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class OwnCorpus:
    """Files of one folder; a-b and b-a are one pair. ``read`` yields a part's two columns as they stand there."""

    name: str
    parts: tuple[Part, ...]
    pairs: Pairs
    read: Read
    benchmark: str | None = None
    minimum: int = 0
    optional: bool = False
    placeholders: re.Pattern[str] = PLACEHOLDERS
    skip_bad_lines: bool = False

    def identity(self) -> dict[str, Any]:
        """File names and hashes, and what is done about bad lines."""
        files = {path.name: sha256_file(path) for part in self.parts for path in part.paths}
        return {"files": files, "skip_bad_lines": self.skip_bad_lines}

    def fetch(self) -> dict[str, Any]:
        """The text is here already."""
        return self.identity() | {"missing": []}

    def extract(self, folder: Path, workers: int) -> list[SourceRecord]:
        """Read and check every file."""
        size = sum(_size(path) for part in self.parts for path in part.paths)
        check_space(folder, COPIES_OF_THE_TEXT * size, "the data folder and its work files")
        records: list[SourceRecord] = []
        for (split, pair), parts in groupby(self.parts, lambda part: (part.split, part.pair)):
            write_rows(folder / f"{split}.{pair}.tsv", self._rows(parts, records))
        return records

    def _rows(self, parts: Iterable[Part], records: list[SourceRecord]) -> Iterator[Row]:
        for part in parts:
            count = 0
            bad = BadLines(self.skip_bad_lines)
            for first, second in self.read(part, bad):
                count += 1
                yield Row(part.name, second, first) if part.swapped else Row(part.name, first, second)
            if not count:
                raise UserError(f"{part.paths[0]} is empty: it needs a pair of sentences on each line")
            bad.check(part, count)
            digest = " + ".join(map(sha256_file, part.paths))
            records.append(SourceRecord(part.name, digest, "the user's own", self.name, {part.pair: count}, bad.count))


def own_corpus(name: str, request: Request, parts: Iterable[Part], read: Read) -> OwnCorpus:
    """A corpus of the parts that are asked for; UserError where training text is missing or the benchmark lacks a
    language.
    """
    found = sorted(parts, key=lambda part: (part.pair, part.split, part.swapped, part.paths))
    there = {part.pair for part in found}
    if request.benchmark is not None:
        _check_languages(request.benchmark, there)
    pairs = request.selection.of_pairs(there)
    chosen = tuple(part for part in found if part.pair in pairs.all)
    trained = {part.pair for part in chosen if part.split == TRAIN}
    for part in chosen:
        if part.pair not in trained and part.pair in pairs.trained:
            raise UserError(
                f"{part.paths[0]} has no training text: add that of {part.pair}, or give --zero-shot {part.pair}"
            )
    if request.benchmark is None:
        return OwnCorpus(name, chosen, pairs, read, None, request.minimum or 0, skip_bad_lines=request.skip_bad_lines)
    benchmark = request.benchmark
    minimum = benchmark.minimum if request.minimum is None else request.minimum
    return OwnCorpus(
        name, chosen, pairs, read, benchmark.name, minimum, benchmark.optional, skip_bad_lines=request.skip_bad_lines
    )


def _check_languages(benchmark: Benchmark, pairs: Iterable[str]) -> None:
    there = sorted({language for pair in pairs for language in languages_of(pair)})
    for language in there:
        benchmark.check(language)
    if missing := [language for language in benchmark.languages if language not in there]:
        say(f"{benchmark.name}: no files of {', '.join(missing)}")


def folder_of(name: str, request: Request, example: str) -> Path:
    """The folder in ``--corpus name:DIR``; UserError if there is none."""
    if not request.where:
        raise UserError(f"--corpus {name} needs a folder: give --corpus {name}:DIR, with files such as {example}")
    folder = Path(expanded(request.where))
    if not folder.is_dir():
        raise UserError(f"{no_such(folder, 'folder')} (--corpus {name}:DIR)")
    return folder


def decoded_lines(path: Path, bad: BadLines) -> Iterator[tuple[int, str | None]]:
    """(number from 1, text without its line end) of each line of a file; what is not UTF-8 is a bad line, None where those are
    skipped.
    """
    for number, raw in enumerate(raw_lines(path), 1):
        try:
            text: str | None = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at byte {error.start + 1}"
            bad.found(f"{path}, line {number}: not valid UTF-8 ({reason}); convert the file to UTF-8")
            text = None
        yield number, text


def text_files(folder: Path) -> Iterator[Path]:
    """Files of the user's folder that may hold text, in order of their names: no read-me, licence or hidden file.

    UserError for one of a compression that is not read, and for what has a text file's name and is none.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir() and "." not in path.name:
            say(f"{path}: a folder, left out")
        elif not NO_TEXT.fullmatch(path.name):
            if not path.is_file():
                raise UserError(f"{no_such(path, 'file')}; text is read several times, so put a plain file there")
            if path.suffix in UNREAD:
                raise UserError(
                    f"{path}: {path.suffix} files are not read; unpack it, or compress it as {', '.join(SUFFIXES)}"
                )
            yield path


def checked(first: str, second: str, part: Part, place: str) -> tuple[str, str]:
    """Both sentences on one line each; UserError for an empty one in a held-out set, whose lines must all count."""
    both = normalise(first), normalise(second)
    if part.split != TRAIN and not all(both):
        raise UserError(f"{place}: an empty sentence in a {part.split} file; fill it in or take the line out")
    return both
