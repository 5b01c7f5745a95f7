"""Line-aligned files, one a language: ``DIR/{split}.{src}-{tgt}.{src}`` and ``.{tgt}``, or without ``{split}.`` for
training text; any of them may be compressed (``.gz``).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast

from data_prep.corpora.base import Request
from data_prep.corpora.own import OwnCorpus, Part, checked, decoded_lines, folder_of, own_corpus
from data_prep.rows import LANGUAGE
from smoe_mt.errors import UserError

FILE_NAME = re.compile(
    rf"(?:(train|valid|dev|test)\.)?({LANGUAGE.pattern})-({LANGUAGE.pattern})\.({LANGUAGE.pattern})(?:\.gz)?"
)


def moses(request: Request) -> OwnCorpus:
    """The corpus in a folder of line-aligned files; UserError if the folder or its file names won't do.

    Files with other names are left alone, such as a licence.
    """
    folder = folder_of("moses", request, "DIR/train.de-en.de and DIR/train.de-en.en")
    files: dict[tuple[str | None, str, str], dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := FILE_NAME.fullmatch(path.name):
            split, source, target, language = match.groups()
            if language not in (source, target):
                raise UserError(
                    f"{path}: its ending is neither {source} nor {target}; name it after one of its languages"
                )
            sides = files.setdefault((split, source, target), {})
            if language in sides:
                raise UserError(f"{path}: {sides[language].name} is there as well; take one of them away")
            sides[language] = path
    if not files:
        raise UserError(
            f"no line-aligned files in {folder}: put train.SRC-TGT.SRC and train.SRC-TGT.TGT there "
            "(train.de-en.de: German; train.de-en.en: the same lines in English)"
        )
    return own_corpus("moses", request, [_part(*key, sides) for key, sides in files.items()], read_moses)


def _part(split: str | None, source: str, target: str, sides: dict[str, Path]) -> Part:
    if source != target and len(sides) < 2:
        (path,) = sides.values()
        missing = target if source in sides else source
        raise UserError(f"{path} has no file with its {missing} lines beside it: add .../{source}-{target}.{missing}")
    return Part.of(tuple(sides[language] for language in dict.fromkeys((source, target))), (source, target), split)


def read_moses(part: Part) -> Iterator[tuple[str, str]]:
    """Both sentences of each line; lines that are blank in both files are passed over. UserError for files of different
    lengths.
    """
    one, other = part.paths
    with _open(one) as first, _open(other) as second:
        pairs = zip_longest(decoded_lines(one, first), decoded_lines(other, second))
        try:
            for mine, theirs in pairs:
                if mine is None or theirs is None:
                    shorter, number = (one, theirs[0]) if mine is None else (other, mine[0])
                    raise UserError(
                        f"{shorter} ends before line {number} of the other file: {part.name} must be line-aligned"
                    )
                if mine[1].strip() or theirs[1].strip():
                    yield checked(mine[1], theirs[1], part, f"{one}, line {mine[0]}")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{part.name}: a damaged .gz file ({error}); fetch it again") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")
