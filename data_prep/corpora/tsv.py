"""``DIR/{src}-{tgt}.tsv``, two columns; optionally ``.valid.tsv`` and ``.test.tsv``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.base import Request
from data_prep.corpora.own import OwnCorpus, Part, checked, decoded_lines, folder_of, own_corpus
from data_prep.rows import LANGUAGE
from smoe_mt.errors import UserError

FILE_NAME = re.compile(rf"({LANGUAGE.pattern})-({LANGUAGE.pattern})(?:\.(valid|test))?\.tsv")


def tsv(request: Request) -> OwnCorpus:
    """The corpus in a folder of TSV files; UserError if the folder or its file names won't do."""
    folder = folder_of("tsv", request, "DIR/de-en.tsv")
    parts = [_part(path) for path in folder.glob("*.tsv")]
    if not parts:
        raise UserError(
            f"no .tsv file in {folder}: put SRC-TGT.tsv there (de-en.tsv: German, a tab, English on each line)"
        )
    return own_corpus("tsv", request, parts, read_tsv)


def _part(path: Path) -> Part:
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path}: not a name of the form SRC-TGT.tsv, SRC-TGT.valid.tsv or SRC-TGT.test.tsv "
            "(language codes are 2 to 8 letters, then _parts)"
        )
    source, target, split = match.groups()
    return Part.of((path,), (source, target), split)


def read_tsv(part: Part) -> Iterator[tuple[str, str]]:
    """Both columns; blank lines are passed over. UserError with the line number for what is not two columns of UTF-8."""
    (path,) = part.paths
    with open(path, "rb") as lines:
        for number, line in decoded_lines(path, lines):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) != 2:
                found = f"{len(columns)} column{'s' * (len(columns) != 1)}"
                raise UserError(f"{path}, line {number}: {found}, not two; put one tab between the two sentences")
            yield checked(columns[0], columns[1], part, f"{path}, line {number}")
