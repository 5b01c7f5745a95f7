"""Software localisation: catalogues and manuals of Debian and npm packages, translated by people."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from data_prep.corpora.base import TRAIN, Request, SourceRecord
from data_prep.corpora.packages import READERS, Entry
from data_prep.corpora.sources import DECLARATION, SOURCES, Source
from data_prep.directions import ENGLISH_ONLY, Pairs
from data_prep.fetch import Package, fault_of_package, fetch, unpack
from data_prep.files import say
from data_prep.readers.markup import plain_lines, segments
from data_prep.rows import Row, hash_of, languages_of, read_rows, write_rows
from smoe_mt.errors import UserError
from smoe_mt.folders import scratch_directory
from smoe_mt.language_codes import ENGLISH, pair_name
from smoe_mt.languages import LANGUAGES, Language
from smoe_mt.paper.benchmarks import BENCHMARKS
from smoe_mt.processes import chunks, ordered_map

PLACEHOLDERS = re.compile(
    r"%(?:\d+\$)?[-+#0'_^]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|q|z|t|j)?[A-Za-z](?![A-Za-z])"
    r"|%\(\w+\)[sdif]|%[1-9]\d?|\$\{?\w+\}?|\{\s*[$-]?[\w.:,() -]*\}|\[(?:VARIABLE|NUMBER)\w*\]|@\w+@|#\w+#|#[1-9]\b"
)
JUNK = re.compile(
    r"translator-credits|^(?:your names|your emails|names? of translators)|^https?://\S+$|^[\w.+-]+@[\w.-]+$"
    r"|xmlns|function\s*\(|\{\{|\}\}|\[\[|\]\]|<|&[A-Za-z]\w*;|&#\d+;|\.xhp\b| \| ",
    re.IGNORECASE,
)


DECLARED = "test_udhr"
LANGUAGES_AT_ONCE = 8


def l10n(request: Request) -> L10nCorpus:
    """The corpus of a benchmark's languages; UserError if none is named."""
    if request.where:
        raise UserError("--corpus l10n takes no folder: give --corpus l10n --benchmark ...")
    if request.benchmark is None:
        raise UserError(f"--corpus l10n needs a benchmark: give --benchmark {' or '.join(sorted(BENCHMARKS))}")
    benchmark = request.benchmark
    pairs = request.selection.of_languages(benchmark.languages, ENGLISH_ONLY)
    languages = tuple(LANGUAGES[code] for code in benchmark.languages if code in pairs.languages)
    return L10nCorpus(
        benchmark.name,
        languages,
        pairs,
        request.cache,
        request.refresh,
        benchmark.minimum if request.minimum is None else request.minimum,
        benchmark.optional,
    )


@dataclass
class L10nCorpus:
    """Packages of SOURCES for some languages with English; pairs without English are joined by their English strings."""

    benchmark: str | None
    languages: tuple[Language, ...]
    pairs: Pairs
    cache: Path
    refresh: bool
    minimum: int = 0
    optional: bool = False
    name: str = "l10n"
    placeholders: re.Pattern[str] = PLACEHOLDERS
    packages: dict[str, Package] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The languages and the names of the packages; versions move and are noted when fetched."""
        wanted = {source.name: list(source.wanted(self.languages)) for source in (*SOURCES, DECLARATION)}
        return {"languages": [language.code for language in self.languages], "packages": wanted}

    def fetch(self) -> dict[str, Any]:
        """Bring the packages; UserError if none could be had."""
        wanted = [(source.kind, name) for source in (*SOURCES, DECLARATION) for name in source.wanted(self.languages)]
        found = fetch(wanted, self.cache, self.refresh)
        self.packages = {package.name: package for package in found}
        if not found:
            raise UserError(
                "no package could be fetched: the l10n corpus needs apt-get or npm and a network (or a filled --cache)"
            )
        return {
            "packages": {package.name: [package.version, package.sha256] for package in found},
            "missing": [name for _, name in wanted if name not in self.packages],
        }

    def extract(self, folder: Path, workers: int) -> list[SourceRecord]:
        """Read all packages; rows are unique and in the order of the table, the Declaration is the split test_udhr."""
        records: dict[str, SourceRecord] = {}
        with scratch_directory(folder, "parts") as parts:
            tasks = list(self._tasks(parts))
            results = ordered_map(read_source, tasks, self.placeholders, workers)
            for task, found in zip(tasks, tqdm(results, total=len(tasks), desc="extract", unit="part")):
                for name in found:
                    _append(task.folder / name, folder / name)
                _note(records, task, found)
        self._say_what_is_missing(folder)
        for pair in self.pairs.all:
            if ENGLISH not in languages_of(pair):
                for split in (TRAIN, DECLARED):
                    join_by_english(folder, split, pair)
        for path in folder.glob("*.tsv"):
            if path.stem.partition(".")[2] not in self.pairs.all:
                path.unlink()
        return list(records.values())

    def _say_what_is_missing(self, folder: Path) -> None:
        there = {path.stem for path in folder.glob("*.tsv")}
        for language in self.languages:
            if f"{TRAIN}.{pair_name(language.code, ENGLISH)}" not in there:
                say(f"extract: no text for {language.code}, which is left out")
        if not any(name.startswith(TRAIN) for name in there):
            raise UserError(
                "the packages that could be fetched hold no text in the benchmark's languages (see the messages above)"
            )

    def _tasks(self, parts: Path) -> Iterator[_Task]:
        """A source at a time, or some languages of it where each has its package: English is read once for them."""
        for source in (*SOURCES, DECLARATION):
            size = LANGUAGES_AT_ONCE if source.per_language else len(self.languages)
            for languages in map(tuple, chunks(self.languages, size)):
                names = source.wanted(languages)
                packages = tuple(self.packages[name] for name in names if name in self.packages)
                if any(package.name not in source.packages or not source.per_language for package in packages):
                    yield _Task(source, languages, packages, parts / f"{source.name}-{languages[0].code}")


@dataclass(frozen=True)
class _Task:
    source: Source
    languages: tuple[Language, ...]
    packages: tuple[Package, ...]
    folder: Path


def _append(part: Path, whole: Path) -> None:
    with open(part, "rb") as text, open(whole, "ab") as out:
        shutil.copyfileobj(text, out)
    part.unlink()


def _note(records: dict[str, SourceRecord], task: _Task, counts: Mapping[str, int]) -> None:
    """One record a package; pairs of sentences are noted at the language's own, or at the last of the source."""
    via = {"deb": "apt-get download", "npm": "npm pack", "pip": "pip download"}[task.source.kind]
    for package in task.packages:
        record = SourceRecord(package.name, package.version, task.source.licence, via, {})
        records.setdefault(package.name, record)
    own = {language.code: task.source.wanted((language,))[-1:] for language in task.languages}
    for name, count in counts.items():
        pair = name.removesuffix(".tsv").partition(".")[2]
        package_names = [found for found in own[languages_of(pair)[0]] if found in records] or [task.packages[-1].name]
        pairs = records[package_names[0]].pairs
        pairs[pair] = pairs.get(pair, 0) + count


def read_source(task: _Task, placeholders: re.Pattern[str]) -> dict[str, int]:
    """Write ``{split}.{pair}.tsv`` of all sentences of a source, in a fixed order, without repetitions; returns how
    many each file has.
    """
    reader = READERS[task.source.reader]
    split = DECLARED if task.source == DECLARATION else TRAIN
    counts: dict[str, int] = {}
    seen: set[int] = set()
    with scratch_directory(task.folder.parent, "unpacked") as root, ExitStack() as stack:
        for package in task.packages:
            error = unpack(package, root / package.name, lambda name: reader.files.fullmatch(name) is not None)
            if error is not None:
                say(f"extract: {package.path} cannot be unpacked and is left out ({error})")
        task.folder.mkdir()
        files: dict[str, TextIO] = {}
        for entry in _entries(task, root):
            name = f"{split}.{pair_name(entry.language, ENGLISH)}.tsv"
            for english, foreign in sentences_of(entry, task.source):
                if (key := hash_of(entry.language, foreign, english)) in seen:
                    continue
                seen.add(key)
                if name not in files:
                    files[name] = stack.enter_context(open(task.folder / name, "w", encoding="utf-8", newline="\n"))
                files[name].write("\t".join(Row(task.source.name, foreign, english)) + "\n")
                counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _entries(task: _Task, root: Path) -> Iterator[Entry]:
    """What the source's reader finds in its unpacked packages, up to what it cannot read."""
    try:
        yield from READERS[task.source.reader].read(root, task.languages)
    except Exception as error:  # noqa: BLE001 (see fault_of_package)
        say(f"extract: {task.source.name} cannot be read to its end; using what was read ({fault_of_package(error)})")


def join_by_english(folder: Path, split: str, pair: str) -> None:
    """Write the rows of a pair without English: what two languages have for the same English string of the same source.

    Where a string has several translations, the first is taken of either side.
    """
    first, second = (folder / f"{split}.{pair_name(language, ENGLISH)}.tsv" for language in languages_of(pair))
    if not first.is_file() or not second.is_file():
        return
    ours: dict[int, str] = {}
    for row in read_rows(first):
        ours.setdefault(hash_of(row.source, row.second), row.first)
    write_rows(folder / f"{split}.{pair}.tsv", _joined(ours, second))


def _joined(ours: dict[int, str], second: Path) -> Iterator[Row]:
    for row in read_rows(second):
        one = ours.pop(hash_of(row.source, row.second), None)
        if one is not None:
            yield Row(row.source, one, row.first)


def sentences_of(entry: Entry, source: Source) -> list[tuple[str, str]]:
    """(English, foreign) lines or sentences of an entry, without mark-up; none if what is left is not text."""
    english, foreign = plain_lines(entry.english, source.marks), plain_lines(entry.foreign, source.marks)
    if not english or not foreign:
        return []
    found = segments(english, foreign, source.sentences)
    return [(one, other) for one, other in found if one and other and not JUNK.search(one) and not JUNK.search(other)]
