"""The user's own text: ``DIR/{src}-{tgt}.tsv``, two columns; optionally ``.valid.tsv`` and ``.test.tsv``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.clean import PLACEHOLDERS
from data_prep.corpora.base import TRAIN, SourceRecord
from data_prep.files import sha256_file
from data_prep.rows import LANGUAGE, Row, languages_of, one_line, pair_name, write_rows
from smoe_mt.errors import UserError

FILE_NAME = re.compile(rf"({LANGUAGE.pattern})-({LANGUAGE.pattern})(?:\.(valid|test))?\.tsv")


@dataclass(frozen=True)
class TextFile:
    """One TSV file: its pair, its split, and whether its columns are in the pair's order."""

    path: Path
    pair: str
    split: str
    swapped: bool


def tsv(where: str, benchmark: str | None, cache: Path, refresh: bool) -> TsvCorpus:
    """The corpus in a folder of TSV files; UserError if the folder or its file names won't do."""
    if benchmark is not None:
        raise UserError(f"--benchmark {benchmark} belongs to --corpus l10n; leave it out with --corpus tsv:DIR")
    if not where:
        raise UserError("--corpus tsv needs a folder: give --corpus tsv:DIR, with files such as DIR/de-en.tsv")
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder} (--corpus tsv:DIR)")
    files = tuple(sorted(map(_text_file, folder.glob("*.tsv")), key=lambda file: (file.pair, file.split, file.swapped)))
    if not files:
        raise UserError(
            f"no .tsv file in {folder}: put SRC-TGT.tsv there (de-en.tsv: German, a tab, English on each line)"
        )
    trained = {file.pair for file in files if file.split == TRAIN}
    for file in files:
        if file.pair not in trained:
            raise UserError(f"{file.path} has no training text beside it: add {'-'.join(languages_of(file.pair))}.tsv")
    return TsvCorpus(files)


def _text_file(path: Path) -> TextFile:
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path}: not a name of the form SRC-TGT.tsv, SRC-TGT.valid.tsv or SRC-TGT.test.tsv "
            "(language codes are 2 to 8 letters, then _parts)"
        )
    source, target, split = match.groups()
    if source == target:
        raise UserError(f"{path}: the same language twice; name the file after two languages")
    pair = pair_name(source, target)
    return TextFile(path, pair, split or TRAIN, pair != f"{source}-{target}")


@dataclass(frozen=True)
class TsvCorpus:
    """Files of one folder; a-b.tsv and b-a.tsv are one pair."""

    files: tuple[TextFile, ...]
    benchmark: str | None = None
    name: str = "tsv"
    placeholders: re.Pattern[str] = PLACEHOLDERS

    def identity(self) -> dict[str, Any]:
        """File names and hashes."""
        return {"files": {file.path.name: sha256_file(file.path) for file in self.files}}

    def fetch(self) -> dict[str, Any]:
        """The text is here already."""
        return self.identity() | {"missing": []}

    def extract(self, folder: Path, workers: int) -> list[SourceRecord]:
        """Read and check every file."""
        rows: dict[tuple[str, str], list[Row]] = {}
        records: list[SourceRecord] = []
        for file in self.files:
            found = list(read_tsv(file))
            if not found:
                raise UserError(f"{file.path} is empty: each line needs two columns with a tab between them")
            rows.setdefault((file.split, file.pair), []).extend(found)
            records.append(
                SourceRecord(file.path.name, sha256_file(file.path), "the user's own", "tsv", {file.pair: len(found)})
            )
        for (split, pair), merged in rows.items():
            write_rows(folder / f"{split}.{pair}.tsv", merged)
        return records


def read_tsv(file: TextFile) -> Iterator[Row]:
    """Rows in the pair's order; blank lines are passed over. UserError with the line number for what is not two columns
    of UTF-8.
    """
    name = file.path.name
    with open(file.path, "rb") as lines:
        for number, raw in enumerate(lines, 1):
            place = f"{file.path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                reason = f"{error.reason} at byte {error.start + 1}"
                raise UserError(f"{place}: not valid UTF-8 ({reason}); convert the file to UTF-8") from error
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) != 2:
                found = f"{len(columns)} column{'s' * (len(columns) != 1)}"
                raise UserError(f"{place}: {found}, not two; put one tab between the two sentences")
            first, second = (one_line(column) for column in columns)
            if file.split != TRAIN and not (first and second):
                raise UserError(f"{place}: an empty sentence in a {file.split} file; fill it in or take the line out")
            yield Row(name, second, first) if file.swapped else Row(name, first, second)
