"""Line-aligned files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from tests.data_prep.test_prepare import contents, prepare
from tests.data_prep.toy import toy_lines, write_tsv


def write_side(path: Path, lines: list[tuple[str, str]], side: int) -> None:
    path.parent.mkdir(exist_ok=True)
    data = "".join(f"{line[side]}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    "names",
    [
        ("train.xaa-en.xaa", "train.xaa-en.en"),
        ("xaa-en.xaa", "xaa-en.en"),
        ("train.xaa-en.xaa.gz", "train.xaa-en.en"),
        ("en-xaa.xaa", "en-xaa.en"),
    ],
)
def test_the_same_data_as_from_tsv(tmp_path: Path, names: tuple[str, str]) -> None:
    lines = toy_lines(150)
    write_tsv(tmp_path / "tsv" / "xaa-en.tsv", lines)
    for side, name in enumerate(names):
        write_side(tmp_path / "moses" / name, lines, side)
    (tmp_path / "moses" / "LICENCE").write_text("free")
    one = prepare(f"tsv:{tmp_path / 'tsv'}", tmp_path / "one")
    two = prepare(f"moses:{tmp_path / 'moses'}", tmp_path / "two")
    assert one["splits"] == two["splits"] and one["counts"] == two["counts"]
    files = [contents(tmp_path / name) for name in ("one", "two")]
    for found in files:
        del found["corpus.json"], found["DATA_CARD.md"]
    assert files[0] == files[1]


@pytest.mark.parametrize("split, name", [("valid", "valid"), ("valid", "dev"), ("test", "test")])
def test_held_out_files_are_used_as_they_are(tmp_path: Path, split: str, name: str) -> None:
    for side, language in enumerate(("xaa", "en")):
        write_side(tmp_path / "in" / f"train.xaa-en.{language}", toy_lines(150), side)
        write_side(tmp_path / "in" / f"{name}.en-xaa.{language}", [("lolo", "tree"), ("katu 2", "sea 2")], side)
    prepare(f"moses:{tmp_path / 'in'}", tmp_path / "data")
    assert (tmp_path / "data" / "text" / f"{split}.xaa-en.xaa").read_text() == "lolo\nkatu 2\n"


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "no line-aligned files"),
        ({"a.txt": b"x"}, "no line-aligned files"),
        ({"de-fr.de": b"a\n"}, "no file with its fr lines beside it"),
        ({"de-fr.en": b"a\n"}, "its ending is neither de nor fr"),
        ({"de-de.de": b"a\n"}, "the same language twice"),
        ({"de-fr.de": b"a b\nb\n", "de-fr.fr": b"c\n"}, "de-fr.fr ends before line 2 of the other file"),
        ({"de-fr.de": b"a\n", "de-fr.fr": b"c\xff\n"}, "de-fr.fr, line 1: not valid UTF-8"),
        ({"de-fr.de": b"", "de-fr.fr": b""}, "de-fr.de is empty"),
        ({"de-fr.de": b"a\n", "de-fr.de.gz": b"", "de-fr.fr": b"a\n"}, "de-fr.de is there as well"),
        ({"de-fr.de.gz": gzip.compress(b"a\n" * 99)[:-9], "de-fr.fr": b"a\n" * 99}, "a damaged .gz file"),
        ({"test.de-fr.de": b"a\n", "test.de-fr.fr": b"b\n"}, "no training text"),
        (
            {"de-fr.de": b"a\n", "de-fr.fr": b"b\n", "test.de-fr.de": b"a\n", "test.de-fr.fr": b" \n"},
            "test.de-fr.de, line 1: an empty sentence in a test file",
        ),
    ],
)
def test_bad_input(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        prepare(f"moses:{folder}", tmp_path / "data")
    assert not (tmp_path / "data" / "corpus.json").exists()
