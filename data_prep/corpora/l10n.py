"""Software localisation: catalogues and manuals of Debian and npm packages, translated by people."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.corpora.base import TRAIN, SourceRecord
from data_prep.corpora.packages import READERS, Entry
from data_prep.corpora.sources import BENCHMARKS, DECLARATION, LANGUAGES, SOURCES, Language, Source
from data_prep.fetch import Package, fetch, unpack
from data_prep.files import say
from data_prep.parallel import ordered_map
from data_prep.readers.markup import plain_lines, segments
from data_prep.rows import ENGLISH, Row, pair_name, write_rows
from smoe_mt.errors import UserError

PLACEHOLDERS = re.compile(
    r"%(?:\d+\$)?[-+#0'_^]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|q|z|t|j)?[A-Za-z](?![A-Za-z])"
    r"|%\(\w+\)[sdif]|%[1-9]\d?|\$\{?\w+\}?|\{\s*[$-]?[\w.:,() -]*\}|\[(?:VARIABLE|NUMBER)\w*\]|@\w+@|#\w+#|#[1-9]\b"
)
JUNK = re.compile(
    r"translator-credits|^(?:your names|your emails|names? of translators)|^https?://\S+$|^[\w.+-]+@[\w.-]+$"
    r"|xmlns|function\s*\(|\{\{|\}\}|\[\[|\]\]|<|&[A-Za-z]\w*;|&#\d+;|\.xhp\b| \| ",
    re.IGNORECASE,
)


def l10n(where: str, benchmark: str | None, cache: Path, refresh: bool) -> L10nCorpus:
    """The corpus of a benchmark's languages; UserError if the benchmark is unknown."""
    if benchmark not in BENCHMARKS:
        given = f"unknown benchmark '{benchmark}'" if benchmark else "--corpus l10n needs a benchmark"
        raise UserError(f"{given}: give --benchmark {' or '.join(sorted(BENCHMARKS))}")
    return L10nCorpus(benchmark, tuple(LANGUAGES[code] for code in BENCHMARKS[benchmark]), cache, refresh)


@dataclass
class L10nCorpus:
    """Packages of SOURCES for some languages with English."""

    benchmark: str | None
    languages: tuple[Language, ...]
    cache: Path
    refresh: bool
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
        tasks = [_Task(source, self.languages, self._available(source), folder) for source in (*SOURCES, DECLARATION)]
        tasks = [task for task in tasks if task.packages]
        rows: dict[str, list[Row]] = {}
        records: list[SourceRecord] = []
        results = ordered_map(read_source, tasks, workers)
        for task, found in zip(tasks, tqdm(results, total=len(tasks), desc="extract", unit="source")):
            split = "test_udhr" if task.source is DECLARATION else TRAIN
            for pair, row in found:
                rows.setdefault(f"{split}.{pair}", []).append(row)
            counts = dict(sorted(Counter(pair for pair, _ in found).items()))
            records.extend(_records(task, counts))
        for language in self.languages:
            if f"{TRAIN}.{pair_name(language.code, ENGLISH)}" not in rows:
                say(f"extract: no text for {language.code}, which is left out")
        if not any(name.startswith(TRAIN) for name in rows):
            raise UserError(
                "the packages that could be fetched hold no text in the benchmark's languages (see the messages above)"
            )
        for name, unique in rows.items():
            write_rows(folder / f"{name}.tsv", unique)
        return records

    def _available(self, source: Source) -> tuple[Package, ...]:
        return tuple(self.packages[name] for name in source.wanted(self.languages) if name in self.packages)


@dataclass(frozen=True)
class _Task:
    source: Source
    languages: tuple[Language, ...]
    packages: tuple[Package, ...]
    scratch: Path


def _records(task: _Task, counts: dict[str, int]) -> list[SourceRecord]:
    """One record a package; the pairs of sentences are the source's, noted at its first package."""
    record = SourceRecord("", "", task.source.licence, "", {})
    via = {"deb": "apt-get download", "npm": "npm pack", "pip": "pip download"}[task.source.kind]
    return [
        replace(record, name=package.name, version=package.version, via=via, pairs=counts if number == 0 else {})
        for number, package in enumerate(task.packages)
    ]


def read_source(task: _Task) -> list[tuple[str, Row]]:
    """(pair, row) of all sentences of a source, in a fixed order, without repetitions."""
    reader = READERS[task.source.reader]
    rows: dict[tuple[str, Row], None] = {}
    with tempfile.TemporaryDirectory(dir=task.scratch, prefix="unpacked-") as root:
        for package in task.packages:
            error = unpack(package, Path(root) / package.name, lambda name: reader.files.fullmatch(name) is not None)
            if error is not None:
                say(f"extract: {package.path} cannot be unpacked; going on without it ({error})")
        for entry in reader.read(Path(root), task.languages):
            for english, foreign in sentences_of(entry, task.source):
                pair = pair_name(entry.language, ENGLISH)
                rows[pair, Row(task.source.name, foreign, english)] = None
    return list(rows)


def sentences_of(entry: Entry, source: Source) -> list[tuple[str, str]]:
    """(English, foreign) lines or sentences of an entry, without mark-up; none if what is left is not text."""
    english, foreign = plain_lines(entry.english, source.marks), plain_lines(entry.foreign, source.marks)
    if not english or not foreign:
        return []
    found = segments(english, foreign, source.sentences)
    return [(one, other) for one, other in found if one and other and not JUNK.search(one) and not JUNK.search(other)]
