"""Line-aligned files."""

from __future__ import annotations

import gzip
import lzma
import re
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
        ({"LICENCE": b"x", "README.md": b"x"}, "no line-aligned files"),
        ({"a.txt": b"x"}, "a.txt: not a name of the form"),
        ({"train.de-fr.de.bz2": b"x"}, ".bz2 files are not read"),
        ({"de-fr.de": b"a\n"}, "no file with its fr lines"),
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


@pytest.mark.parametrize(
    "names",
    [
        ("train.pt-BR-en.pt-BR", "train.pt-BR-en.en"),
        ("train.pt-br-en.pt-br", "train.pt-br-en.en"),
        ("train.pt_BR-eng_Latn.pt_BR", "train.pt_BR-eng_Latn.eng_Latn"),
    ],
)
def test_codes_may_have_a_region_or_script(tmp_path: Path, names: tuple[str, str]) -> None:
    for side, name in enumerate(names):
        write_side(tmp_path / "in" / name, toy_lines(150), side)
    (pair,) = prepare(f"moses:{tmp_path / 'in'}", tmp_path / "data")["pairs"]
    first, second = pair.split("-")
    assert first.lower() == "pt_br" and second in ("en", "eng_Latn")


def test_xz_and_zst_are_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    lines = toy_lines(150)
    (tmp_path / "in").mkdir()
    for side, (name, pack) in enumerate(
        {"xaa-en.xaa.xz": lzma.compress, "xaa-en.en.zst": zstandard.ZstdCompressor().compress}.items()
    ):
        (tmp_path / "in" / name).write_bytes(pack("".join(f"{line[side]}\n" for line in lines).encode()))
    assert prepare(f"moses:{tmp_path / 'in'}", tmp_path / "data")["counts"]["xaa-en"]["read"] == 150


@pytest.mark.parametrize(
    "bad, message",
    [(b"no tab", "skipped: .*line 151: 1 column"), (b"\xff\tx", "skipped: .*line 151: not valid UTF-8")],
)
def test_bad_lines_stop_or_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: bytes, message: str
) -> None:
    write_tsv(tmp_path / "in" / "xaa-en.tsv", toy_lines(150))
    with open(tmp_path / "in" / "xaa-en.tsv", "ab") as out:
        out.write(bad + b"\n")
    with pytest.raises(UserError, match="line 151.*--bad-lines skip"):
        prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data")
    corpus = prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data", "--bad-lines", "skip")
    assert corpus["sources"][0]["bad_lines"] == 1 and re.search(message, capsys.readouterr().err)


def test_a_file_with_many_bad_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "xaa-en.tsv").write_bytes(b"one column\n" * 50 + b"a\tb\n" * 50)
    with pytest.raises(UserError, match="50 of 100 lines cannot be read"):
        prepare(f"tsv:{tmp_path / 'in'}", tmp_path / "data", "--bad-lines", "skip")
