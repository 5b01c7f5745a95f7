"""Line-aligned files, one a language: ``DIR/{split}.{src}-{tgt}.{src}`` and ``.{tgt}``, or without ``{split}.`` for
training text; any of them may be compressed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from data_prep.compressed import without_compression
from data_prep.corpora.base import Request
from data_prep.corpora.own import BadLines, OwnCorpus, Part, checked, decoded_lines, folder_of, own_corpus, text_files
from smoe_mt.errors import UserError
from smoe_mt.language_codes import canonical, parse_pair

FILE_NAME = re.compile(r"(?:(train|valid|dev|test)\.)?([^.]+)\.([^.]+)")


def moses(request: Request) -> OwnCorpus:
    """The corpus in a folder of line-aligned files; UserError if the folder or its file names won't do."""
    folder = folder_of("moses", request, "DIR/train.de-en.de and DIR/train.de-en.en")
    files: dict[tuple[str | None, str, str], dict[str, Path]] = {}
    for path in text_files(folder):
        split, (source, target), language = _named(path)
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


def _named(path: Path) -> tuple[str | None, tuple[str, str], str]:
    """Split, languages of the pair and language of a file by its name; UserError for a name of another form."""
    match = FILE_NAME.fullmatch(without_compression(path.name))
    split, pair, ending = match.groups() if match else (None, "", "")
    languages = parse_pair(pair) or _by_ending(pair, ending)
    if languages is None:
        raise UserError(
            f"{path}: not a name of the form train.SRC-TGT.SRC (valid, test; codes such as de, pt_BR, zho_Hans; compressed as "
            ".gz, .xz or .zst); rename it, or take it out of the folder"
        )
    if canonical(ending) not in languages:
        raise UserError(
            f"{path}: its ending is neither {languages[0]} nor {languages[1]}; name it after one of its languages"
        )
    return split, languages, canonical(ending)


def _by_ending(pair: str, ending: str) -> tuple[str, str] | None:
    """The languages of a pair such as pt-br-en, which could be split in two ways, told by the language that the file is of."""
    if pair.startswith(f"{ending}-"):
        return parse_pair(f"{canonical(ending)}-{canonical(pair.removeprefix(f'{ending}-'))}")
    if pair.endswith(f"-{ending}"):
        return parse_pair(f"{canonical(pair.removesuffix(f'-{ending}'))}-{canonical(ending)}")
    return None


def _part(split: str | None, source: str, target: str, sides: dict[str, Path]) -> Part:
    if source != target and len(sides) < 2:
        (path,) = sides.values()
        missing = target if source in sides else source
        raise UserError(f"{path} has no file with its {missing} lines: add .../{source}-{target}.{missing}")
    return Part.of(tuple(sides[language] for language in dict.fromkeys((source, target))), (source, target), split)


def read_moses(part: Part, bad: BadLines) -> Iterator[tuple[str, str]]:
    """Both sentences of each line; lines that are blank in both files are passed over. UserError for files of different
    lengths.
    """
    one, other = part.paths
    for mine, theirs in zip_longest(decoded_lines(one, bad), decoded_lines(other, bad)):
        if mine is None or theirs is None:
            shorter, number = (one, theirs[0]) if mine is None else (other, mine[0])
            raise UserError(f"{shorter} ends before line {number} of the other file: {part.name} must be line-aligned")
        if mine[1] is not None and theirs[1] is not None and (mine[1].strip() or theirs[1].strip()):
            yield checked(mine[1], theirs[1], part, f"{one}, line {mine[0]}")
