"""The public corpora: what is chosen of the index, what is fetched from a server on localhost, what becomes of it."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep.corpora.base import Request
from data_prep.corpora.public import PublicCorpus, public
from data_prep.directions import Selection
from data_prep.rows import Row, read_rows
from smoe_mt.errors import UserError
from smoe_mt.paper.benchmarks import BENCHMARKS
from tests.data_prep.server import Server
from tests.data_prep.test_prepare import prepare
from tests.data_prep.toy import toy_lines

pytest.importorskip("mtdata", reason="the extra 'public' is not installed")
FLORES = "flores200_dataset/{kind}/{language}.{kind}"


class Did(SimpleNamespace):
    """A data set's name in mtdata's index."""

    def __str__(self) -> str:
        return f"{self.group}-{self.name}-{self.version}-{'-'.join(self.langs)}"


def entry(name: str, url: str, file: str, langs: tuple[str, str], paths: list[str], version: str = "1") -> Any:
    group = "Flores" if name.startswith("flores") else "OPUS"
    did = Did(group=group, name=name, version=version, langs=langs)
    return SimpleNamespace(did=did, url=url, filename=file, ext=file.partition(".")[2], in_paths=paths, in_ext="txt")


def zipped(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"Set.eng-nso.{name}", text)
    return data.getvalue()


def tarred(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


@pytest.fixture
def index(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """An index of one pair, whose files the server has."""
    lines = toy_lines(300, fewest=5)
    sides = ["".join(f"{line[side]}\n" for line in lines[100:]) for side in (0, 1)]
    server.files = {
        "/gnome.zip": zipped(nso=sides[0], en=sides[1], README="text"),
        "/flores.tar.gz": tarred(
            {
                FLORES.format(kind=kind, language=language): "".join(
                    f"{line[side]}\n" for line in lines[start : start + 50]
                )
                for kind, start in (("dev", 0), ("devtest", 50))
                for side, language in enumerate(("nso_Latn", "eng_Latn"))
            }
        ),
    }
    both = ("eng", "nso")
    held_out = [
        entry(f"flores200_{kind}", f"{server.url}/flores.tar.gz", "flores.tar.gz", both, paths)
        for kind in ("dev", "devtest")
        for paths in [[FLORES.format(kind=kind, language=language) for language in ("eng_Latn", "nso_Latn")]]
    ]
    entries = [
        *held_out,
        entry("gnome", f"{server.url}/old.zip", "gnome.zip", both, ["*.en", "*.nso"], "0"),
        entry("gnome", f"{server.url}/gnome.zip", "gnome.zip", both, ["*.en", "*.nso"]),
        entry("nllb", f"{server.url}/mined.zip", "nllb.zip", both, ["*.en", "*.nso"]),
    ]
    found = {"nso-en": entries}
    monkeypatch.setattr(
        import_module("data_prep.corpora.public"), "_index", lambda cache: lambda pair: found.get(pair, [])
    )
    return found


@pytest.fixture
def corpus(index: dict[str, list[Any]], tmp_path: Path) -> Callable[[], PublicCorpus]:
    def make() -> PublicCorpus:
        return public(Request("", BENCHMARKS["m4"], Selection("nso-en"), 0, tmp_path / "cache"))

    return make


def test_the_newest_of_each_primary_corpus_and_flores_are_chosen(
    corpus: Callable[[], PublicCorpus], server: Server
) -> None:
    plan = corpus().plan()
    assert [line.split()[:3] for line in plan.splitlines()[2:-1]] == [
        ["Flores-flores200_dev-1-eng-nso", "nso-en", "valid"],
        ["Flores-flores200_devtest-1-eng-nso", "nso-en", "test"],
        ["OPUS-gnome-1-eng-nso", "nso-en", "train"],
    ]
    assert "3 data sets in 2 files" in plan and server.asked == []


def test_text_comes_in_the_order_of_the_pair(corpus: Callable[[], PublicCorpus], tmp_path: Path) -> None:
    found = corpus()
    assert found.fetch()["missing"] == []
    (tmp_path / "out").mkdir()
    records = found.extract(tmp_path / "out", 1)
    lines = toy_lines(300, fewest=5)
    rows = {path.name: list(read_rows(path)) for path in (tmp_path / "out").iterdir()}
    assert rows["train.nso-en.tsv"] == [Row("OPUS-gnome-1-eng-nso", *line) for line in lines[100:]]
    assert rows["test.nso-en.tsv"][0] == Row("Flores-flores200_devtest-1-eng-nso", *lines[50])
    assert {record.name: record.pairs for record in records}["OPUS-gnome-1-eng-nso"] == {"nso-en": 200}


def test_empty_lines_leave_held_out_sets_and_this_is_said(
    corpus: Callable[[], PublicCorpus], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"nso_Latn": "katu\n\nlolo\n", "eng_Latn": "street\nsea\ntree\n"}
    server.files["/flores.tar.gz"] = tarred(
        {FLORES.format(kind=kind, language=name): texts[name] for kind in ("dev", "devtest") for name in texts}
    )
    found = corpus()
    found.fetch()
    (tmp_path / "out").mkdir()
    found.extract(tmp_path / "out", 1)
    assert [row.first for row in read_rows(tmp_path / "out" / "test.nso-en.tsv")] == ["katu", "lolo"]
    assert "1 lines have no sentence on one side and are left out of test" in capsys.readouterr().err


def test_what_is_in_the_cache_is_not_asked_for(corpus: Callable[[], PublicCorpus], server: Server) -> None:
    first = corpus().fetch()
    server.asked.clear()
    assert corpus().fetch() == first and server.asked == []


def test_training_text_that_is_gone_is_done_without(
    corpus: Callable[[], PublicCorpus], server: Server, index: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    index["nso-en"].append(entry("kde4", f"{server.url}/kde4.zip", "kde4.zip", ("eng", "nso"), ["*.en", "*.nso"]))
    assert corpus().fetch()["missing"] == [f"{server.url}/kde4.zip"]
    assert "kde4.zip is no longer on its server" in capsys.readouterr().err


def test_held_out_text_that_is_gone_is_an_error(corpus: Callable[[], PublicCorpus], server: Server) -> None:
    del server.files["/flores.tar.gz"]
    with pytest.raises(UserError, match="flores.tar.gz is gone .* is needed as"):
        corpus().fetch()


def test_the_disk_is_looked_at_before(
    corpus: Callable[[], PublicCorpus], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="the disk has 0.0 GB free"):
        corpus().fetch()
    assert {command for command, _ in server.asked} == {"HEAD"}


def test_an_archive_without_the_text_is_said(
    corpus: Callable[[], PublicCorpus], server: Server, tmp_path: Path
) -> None:
    server.files["/gnome.zip"] = zipped(xho="a\n", en="b\n")
    found = corpus()
    found.fetch()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="gnome.zip has no"):
        found.extract(tmp_path / "out", 1)


@pytest.mark.usefixtures("index")
def test_from_the_index_to_the_data_folder(tmp_path: Path) -> None:
    options = ("--benchmark", "m4", "--directions", "nso-en", "--min-pairs", "50", "--cache", str(tmp_path / "cache"))
    found = prepare("public", tmp_path / "data", *options)
    assert found["splits"]["test"] == {"nso-en": 50}  # type: ignore[index]
    with pytest.raises(UserError, match="below the minimum of 4,000 clean pairs of sentences: nso-en 200"):
        prepare("public", tmp_path / "other", *options[:4], *options[6:])


@pytest.mark.usefixtures("index")
def test_dry_run_prints_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError):  # of the corpus.json that is not made
        prepare("public", tmp_path / "data", "--benchmark", "m4", "--dry-run", "--cache", str(tmp_path / "cache"))
    printed = capsys.readouterr().out
    assert "OPUS-gnome-1-eng-nso" in printed and "no training text in the index: cat-en, msa-en, tgl-en" in printed
    assert not (tmp_path / "data").exists()


def test_opus100_names_its_files_after_its_own_codes(
    index: dict[str, list[Any]], tmp_path: Path, server: Server
) -> None:
    wrong = ["opus-100-corpus/v1.0/supervised/en-nob/opus.en-nob-train.en", "..."]  # as mtdata 0.5.1 has it
    index["nb-en"] = [entry("opus100_train", server.url, "opus-100.tar.gz", ("eng", "nob"), wrong)]
    corpus = public(Request("", BENCHMARKS["opus100"], Selection("nb-en"), 0, tmp_path))
    name = "opus-100-corpus/v1.0/supervised/en-nb/opus.en-nb-train."
    assert corpus.datasets[0].members == (f"{name}nb", f"{name}en")
