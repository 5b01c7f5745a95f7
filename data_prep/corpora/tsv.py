"""``DIR/{src}-{tgt}.tsv``, two columns; optionally ``.valid.tsv`` and ``.test.tsv``; any of them may be compressed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.compressed import without_compression
from data_prep.corpora.base import Request
from data_prep.corpora.own import BadLines, OwnCorpus, Part, checked, decoded_lines, folder_of, own_corpus, text_files
from smoe_mt.errors import UserError
from smoe_mt.language_codes import parse_pair

FILE_NAME = re.compile(r"([^.]+)(?:\.(valid|dev|test|train))?\.tsv")


def tsv(request: Request) -> OwnCorpus:
    """The corpus in a folder of TSV files; UserError if the folder or its file names won't do."""
    folder = folder_of("tsv", request, "DIR/de-en.tsv")
    parts = [_part(path) for path in text_files(folder)]
    if not parts:
        raise UserError(
            f"no .tsv file in {folder}: put SRC-TGT.tsv there (de-en.tsv: German, a tab, English on each line)"
        )
    return own_corpus("tsv", request, parts, read_tsv)


def _part(path: Path) -> Part:
    match = FILE_NAME.fullmatch(without_compression(path.name))
    languages = parse_pair(match[1]) if match else None
    if match is None or languages is None:
        raise UserError(
            f"{path}: not a name of the form SRC-TGT.tsv, SRC-TGT.valid.tsv or SRC-TGT.test.tsv (codes such as de, pt_BR, "
            "zho_Hans; compressed as .gz, .xz or .zst); rename it, or take it out of the folder"
        )
    return Part.of((path,), languages, match[2])


def read_tsv(part: Part, bad: BadLines) -> Iterator[tuple[str, str]]:
    """Both columns; blank lines are passed over. A line that is not two columns of UTF-8 is a bad one."""
    (path,) = part.paths
    for number, line in decoded_lines(path, bad):
        if line is None or not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            found = f"{len(columns)} column{'s' * (len(columns) != 1)}"
            bad.found(f"{path}, line {number}: {found}, not two; put one tab between the two sentences")
            continue
        yield checked(columns[0], columns[1], part, f"{path}, line {number}")
