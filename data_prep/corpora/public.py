"""The public corpora of the paper, found in mtdata's index: OPUS-100; for M4 and M15 FLORES-200 and what is public of
the primary bitexts of NLLB-200. Nothing is asked of a network before ``fetch``.

NLLB's primary bitexts are those that were not mined. Which ones it used of each language is not published as a list of
files, so training text is the newest version of each corpus in PRIMARY that the index has for a pair; the counts can
differ from the paper's, which the data card puts beside them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.clean import PLACEHOLDERS
from data_prep.corpora.base import TRAIN, Request, SourceRecord
from data_prep.corpora.moses import read_moses
from data_prep.corpora.own import BadLines, Part
from data_prep.directions import ENGLISH_ONLY, Pairs
from data_prep.download import Download, NotThere, cached, download, left_to_fetch, remote_size
from data_prep.fetch import Package, unpack
from data_prep.files import check_space, say
from data_prep.report import table
from data_prep.rows import Row, languages_of
from smoe_mt.errors import UserError
from smoe_mt.files import checked_name
from smoe_mt.folders import scratch_directory
from smoe_mt.language_codes import ENGLISH
from smoe_mt.paper.benchmarks import BENCHMARKS, OPUS100_UNTESTED, Benchmark

PRIMARY = (
    "bible_uedin",
    "eubookshop",
    "europarl",
    "globalvoices",
    "gnome",
    "infopankki",
    "kde4",
    "neulab_tedtalks",
    "opensubtitles",
    "qed",
    "tanzil",
    "tatoeba",
    "ted2020",
    "tico_19",
    "ubuntu",
    "wikimedia",
)
FLORES = {"flores200_dev": "valid", "flores200_devtest": "test"}
OPUS100 = {"opus100_train": TRAIN, "opus100_dev": "valid", "opus100_test": "test"}
OPUS100_FILE = "opus-100-corpus/v1.0/{kind}/{pair}/opus.{pair}-{split}.{language}"
OTHER_TAGS = {"en": ("eng",), "msa": ("msa", "zsm", "zsm_Latn")}
LICENCES = {"Flores": "CC-BY-SA-4.0", "OPUS": "see opus.nlpl.eu"}
SPACE_A_BYTE = 6  # of a compressed file: itself, its text, the stages, the data folder


@dataclass(frozen=True)
class Dataset:
    """One entry of the index for one pair: ``members`` name the text of the pair's first and second language in the
    archive.
    """

    name: str
    url: str
    file: str
    pair: str
    split: str
    members: tuple[str, str]
    licence: str


def public(request: Request) -> PublicCorpus:
    """The public corpus of a benchmark; UserError if none is named or mtdata is not installed."""
    if request.where:
        raise UserError("--corpus public takes no folder: give --corpus public --benchmark ...")
    if request.benchmark is None:
        raise UserError(f"--corpus public needs a benchmark: give --benchmark {' or '.join(BENCHMARKS)}")
    benchmark = request.benchmark
    untested = OPUS100_UNTESTED if benchmark.name == "opus100" else ()
    languages = [language for language in benchmark.languages if language not in untested]
    pairs = request.selection.of_languages(languages, ENGLISH_ONLY)
    minimum = benchmark.minimum if request.minimum is None else request.minimum
    datasets = tuple(_datasets(benchmark, pairs, request.cache))
    cache = request.cache / "public"
    return PublicCorpus(benchmark.name, pairs, datasets, cache, request.refresh, minimum, benchmark.optional)


@dataclass
class PublicCorpus:
    """Files of the index that are downloaded into ``cache``."""

    benchmark: str
    pairs: Pairs
    datasets: tuple[Dataset, ...]
    cache: Path
    refresh: bool
    minimum: int
    optional: bool
    found: dict[str, Download] = field(default_factory=dict)
    name: str = "public"
    placeholders: re.Pattern[str] = PLACEHOLDERS

    def identity(self) -> dict[str, Any]:
        """Names of the data sets."""
        return {"datasets": [f"{dataset.name} {dataset.pair}" for dataset in self.datasets]}

    def plan(self) -> str:
        """What would be downloaded, as a table; sizes where the file is in the cache already."""
        rows = [
            [dataset.name, dataset.pair, dataset.split, self._size(dataset), dataset.url] for dataset in self.datasets
        ]
        urls = {dataset.url for dataset in self.datasets}
        found = table(["data set", "pair", "split", "MB", "URL"], rows)
        without = [pair for pair in self.pairs.trained if not self._of(pair, TRAIN)]
        note = f"\nno training text in the index: {', '.join(without)}" if without else ""
        return f"{found}\n{len(self.datasets)} data sets in {len(urls)} files{note}"

    def _of(self, pair: str, split: str) -> list[Dataset]:
        return [dataset for dataset in self.datasets if (dataset.pair, dataset.split) == (pair, split)]

    def _size(self, dataset: Dataset) -> str:
        path = self.cache / dataset.file
        return f"{path.stat().st_size / 1e6:,.1f}" if path.is_file() else "?"

    def fetch(self) -> dict[str, Any]:
        """Bring all files. A training file that the server lacks is done without; UserError for a held-out one."""
        self.cache.mkdir(parents=True, exist_ok=True)
        files = {dataset.url: self.cache / dataset.file for dataset in self.datasets}
        found = {} if self.refresh else {url: here for url, path in files.items() if (here := cached(url, path))}
        missing = self._check_sizes({url: path for url, path in files.items() if url not in found})
        for url, path in tqdm(files.items(), desc="fetch", unit="file"):
            if url not in found and url not in missing:
                found[url] = download(url, path)
        self.found = found
        return {"files": {file.path.name: file.sha256 for file in found.values()}, "missing": sorted(missing)}

    def _check_sizes(self, wanted: dict[str, Path]) -> set[str]:
        """URLs that the server lacks; UserError if the disk is too small for the others."""
        missing: set[str] = set()
        total = 0
        for url, path in tqdm(wanted.items(), desc="ask for sizes", unit="file"):
            try:
                total += left_to_fetch(path, remote_size(url))
            except NotThere:
                missing.add(url)
        for dataset in self.datasets:
            if dataset.url in missing:
                if dataset.split != TRAIN:
                    raise UserError(
                        f"{dataset.url} is gone from its server: {dataset.name} is needed as {dataset.split}"
                    )
                say(f"fetch: {dataset.url} is no longer on its server and is left out")
        check_space(self.cache, SPACE_A_BYTE * total, f"downloads of {total / 1e9:.1f} GB and the text in them")
        return missing

    def extract(self, folder: Path, workers: int) -> list[SourceRecord]:
        """Unpack a file at a time and write its text."""
        records: list[SourceRecord] = []
        for url, file in tqdm(self.found.items(), desc="extract", unit="file"):
            datasets = [dataset for dataset in self.datasets if dataset.url == url]
            with scratch_directory(folder, "unpacked") as root:
                _unpack(file, datasets, root)
                records.extend(_write(dataset, file, root, folder) for dataset in datasets)
        return records


def _unpack(file: Download, datasets: list[Dataset], root: Path) -> None:
    patterns = {member for dataset in datasets for member in dataset.members}
    package = Package("url", file.path.name, "", file.path, file.sha256)
    error = unpack(package, root, lambda name: any(fnmatch(name, pattern) for pattern in patterns))
    if error is not None:
        raise UserError(f"{file.path} cannot be unpacked ({error}): move it away and run again")


def _write(dataset: Dataset, file: Download, root: Path, folder: Path) -> SourceRecord:
    """Append a data set's text; lines without a sentence on one side count for cleaning, but held-out sets have none."""
    count = empty = 0
    with open(folder / f"{dataset.split}.{dataset.pair}.tsv", "a", encoding="utf-8", newline="\n") as out:
        for first, second in read_moses(
            Part(_members(dataset, root), dataset.pair, TRAIN, False), BadLines(skip=False)
        ):
            if dataset.split != TRAIN and not (first and second):
                empty += 1
                continue
            out.write("\t".join(Row(dataset.name, first, second)) + "\n")
            count += 1
    if empty:
        say(f"extract: {dataset.name}: {empty} lines have no sentence on one side and are left out of {dataset.split}")
    return SourceRecord(dataset.name, file.sha256, dataset.licence, dataset.url, {dataset.pair: count})


def _members(dataset: Dataset, root: Path) -> tuple[Path, ...]:
    names = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    found = [[path for name, path in names.items() if fnmatch(name, member)] for member in dataset.members]
    if not all(found):
        raise UserError(
            f"{dataset.url} has no {' and '.join(dataset.members)} in it: mtdata's index does not fit the file"
        )
    return tuple(paths[0] for paths in found)


def _datasets(benchmark: Benchmark, pairs: Pairs, cache: Path) -> Iterator[Dataset]:
    """What the index has for the pairs, in a fixed order."""
    entries_of = _index(cache / "mtdata")
    for pair in pairs.all:
        entries = sorted({str(entry.did): entry for entry in entries_of(pair)}.items())
        chosen = _of_opus100 if benchmark.name == "opus100" else _of_nllb
        yield from chosen(pair, [entry for _, entry in entries], pair in pairs.trained)


def _of_opus100(pair: str, entries: Iterable[Any], trained: bool) -> Iterator[Dataset]:
    codes = sorted(languages_of(pair))
    for entry in entries:
        split = OPUS100.get(entry.did.name)
        if split is not None and (trained or split != TRAIN):
            kind = "supervised" if ENGLISH in codes else "zero-shot"
            name = partial(OPUS100_FILE.format, kind=kind, pair="-".join(codes), split=entry.did.name.split("_")[1])
            members = tuple(name(language=language) for language in languages_of(pair))
            yield _dataset(entry, pair, split, members)


def _of_nllb(pair: str, entries: Iterable[Any], trained: bool) -> Iterator[Dataset]:
    newest: dict[str, Any] = {}
    for entry in entries:
        if entry.did.name in FLORES:
            yield _dataset(entry, pair, FLORES[entry.did.name], _in_order(entry, pair))
        elif trained and entry.did.group == "OPUS" and entry.did.name in PRIMARY and entry.in_ext == "txt":
            newest[entry.did.name] = entry
    for entry in newest.values():
        yield _dataset(entry, pair, TRAIN, _in_order(entry, pair))


def _in_order(entry: Any, pair: str) -> tuple[str, str]:
    """Its members in the order of the pair."""
    first, second = entry.in_paths
    return (first, second) if str(entry.did.langs[0]) in _tags(languages_of(pair)[0]) else (second, first)


def _tags(language: str) -> set[str]:
    """What the index calls a language: with and without the usual script."""
    from mtdata.iso.bcp47 import bcp47

    names = OTHER_TAGS.get(language, (language, f"{language}_Latn"))
    return {str(bcp47(name)) for name in names}


def _index(cache: Path) -> Callable[[str], list[Any]]:
    """A function that looks a pair up in mtdata's index; UserError if mtdata is not installed."""
    os.environ["MTDATA"] = str(cache)  # read when mtdata is imported: else it writes into the home folder
    cache.mkdir(parents=True, exist_ok=True)
    say("public: reading mtdata's index (half a minute)")
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        from mtdata.index import get_entries
        from mtdata.iso.bcp47 import bcp47
    except ImportError as error:
        raise UserError("--corpus public needs mtdata: pip install 'smoe_mt[public]'") from error
    finally:
        logging.disable(before)

    def entries_of(pair: str) -> list[Any]:
        return [
            entry
            for both in product(*map(_tags, languages_of(pair)))
            for entry in get_entries(tuple(map(bcp47, both)))
            if len(entry.did.langs) == 2
        ]

    return entries_of


def _dataset(entry: Any, pair: str, split: str, members: tuple[str, ...]) -> Dataset:
    first, second = members
    file = entry.filename if entry.did.name in {*FLORES, *OPUS100} else f"{entry.did}.{entry.ext}"
    licence = LICENCES.get(entry.did.group, "see the source")
    checked_name(file, "mtdata's index")
    return Dataset(str(entry.did), entry.url, file, pair, split, (first, second), licence)
