"""Each reader on a small file of its format, made here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import polib
import pytest

from data_prep.readers.fluent import plain_pattern, read_ftl
from data_prep.readers.gettext import read_mo, read_zipped_mo
from data_prep.readers.markup import plain_lines, segments
from data_prep.readers.mediawiki import plain_wiki, read_messages
from data_prep.readers.properties import read_properties
from data_prep.readers.scratch import read_scratch
from data_prep.readers.webpage import declaration, paragraphs_by_id
from data_prep.readers.xpi import last_form, read_xpi


def write_mo(path: Path, entries: list[polib.POEntry]) -> Path:
    catalogue = polib.POFile()
    catalogue.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    catalogue.extend(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    catalogue.save_as_mofile(str(path))
    return path


def test_mo_gives_english_and_translation_without_the_context(tmp_path: Path) -> None:
    path = write_mo(tmp_path / "a.mo", [polib.POEntry(msgid="Open file", msgstr="Bula faele", msgctxt="STR_OPEN")])
    assert list(read_mo(path)) == [("Open file", "Bula faele")]


@pytest.mark.parametrize(
    "forms, expected",
    [
        ({0: "un", 1: "molts"}, [("one", "un"), ("many", "molts")]),
        ({0: "un", 1: "pocs", 2: "molts"}, [("one", "un"), ("many", "molts")]),
        ({0: "banyak"}, [("many", "banyak")]),
    ],
)
def test_mo_pairs_plural_with_the_last_form(
    tmp_path: Path, forms: dict[int, str], expected: list[tuple[str, str]]
) -> None:
    entry = polib.POEntry(msgid="one", msgid_plural="many", msgstr_plural=forms)
    assert list(read_mo(write_mo(tmp_path / "a.mo", [entry]))) == expected


def test_broken_mo_costs_itself_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mo").write_bytes(b"\xde\x12\x04\x95 not a catalogue")
    assert list(read_mo(tmp_path / "bad.mo")) == []
    assert "bad.mo" in capsys.readouterr().err


def test_mo_in_a_zip(tmp_path: Path) -> None:
    mo = write_mo(tmp_path / "messages.mo", [polib.POEntry(msgid="Book", msgstr="Buku")])
    with zipfile.ZipFile(tmp_path / "locales.zip", "w") as archive:
        archive.write(mo, "ms/messages.mo")
    assert list(read_zipped_mo(tmp_path / "locales.zip", "ms/messages.mo")) == [("Book", "Buku")]


FTL = """
-brand = Firefox
hello = Welcome to { -brand }, { $name }!
    .title = Title
count = { $n ->
    [one] One
   *[other] Many
 }
quote = { "{" }x
"""


@pytest.mark.parametrize(
    "key, expected",
    [
        ("hello", "Welcome to Firefox, { $name }!"),
        ("hello.title", "Title"),
        ("count", None),
        ("quote", "{x"),
    ],
)
def test_fluent(key: str, expected: str | None) -> None:
    patterns = read_ftl(FTL)
    assert plain_pattern(patterns[key], patterns) == expected


def test_properties_joins_lines_and_resolves_escapes() -> None:
    text = "# note\na.b = one \\\n   two\nc: caf\\u00e9\\n!\nno value here\n"
    assert read_properties(text) == {"a.b": "one two", "c": "café\n!"}


def test_xpi_keys_are_free_of_the_locale(tmp_path: Path) -> None:
    for locale, text in (("en-GB", "Close"), ("tl", "Isara")):
        with zipfile.ZipFile(tmp_path / f"{locale}.xpi", "w") as archive:
            archive.writestr(f"chrome/{locale}/locale/{locale}/a.properties", f"close={text}\nclose.accesskey=C\n")
            archive.writestr(f"localization/{locale}/b.ftl", f"x = {text} {{ -brand-short-name }}\n")
    english, other = (read_xpi(tmp_path / f"{name}.xpi", {"-brand-short-name": "Fox"}) for name in ("en-GB", "tl"))
    assert set(english) == set(other) and len(english) == 2
    assert sorted(other.values()) == ["Isara", "Isara Fox"]


def test_last_plural_form_of_a_list() -> None:
    assert last_form("#1 day;#1 days") == "#1 days"


def test_mediawiki_leaves_out_metadata(tmp_path: Path) -> None:
    path = tmp_path / "en.json"
    path.write_text(json.dumps({"@metadata": {"authors": []}, "a": "Text", "b": 3}))
    assert read_messages(path) == {"a": "Text"}


@pytest.mark.parametrize(
    "wiki, plain",
    [
        ("{{PLURAL:$1|page|pages}}", "pages"),
        ("{{PLURAL:$1|0=none|page|pages}}", "pages"),
        ("{{GENDER:$1|his|her|their}} page", "his page"),
        ("See [[Help:Edit|the help]] and [[Main]]", "See the help and Main"),
        ("[https://x.org the site] '''now'''", "the site now"),
        ("Welcome to {{SITENAME}}", "Welcome to Wikipedia"),
        ("== Head ==", "Head"),
    ],
)
def test_wiki_markup(wiki: str, plain: str) -> None:
    assert plain_wiki(wiki) == plain


def test_scratch(tmp_path: Path) -> None:
    path = tmp_path / "editor-msgs.js"
    path.write_text('// made\nexport default {"en": {"a": "Go"}, "nso": {"a": "Sepela"}};\n')
    assert read_scratch(path)["nso"] == {"a": "Sepela"}


def test_help_paragraphs_have_ids_and_one_system(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        '<html><body><p>none</p><p id="x">Press <span class="MAC">Command</span><span>Ctrl</span>+A  now</p>'
        '<h2 id="y">Té</h2></body></html>',
        encoding="utf-8",
    )
    assert paragraphs_by_id(page) == {"x": "Press Ctrl+A now", "y": "Té"}


def test_declaration_by_article(tmp_path: Path) -> None:
    page = tmp_path / "eng.html"
    page.write_text(
        "<html><body><header><h2>Preamble</h2><p>Whereas.</p></header><article data-number='1'><h2>Article 1</h2>"
        "<ol><li><p>First.</p></li><li><p>Second.</p></li></ol></article></body></html>"
    )
    assert declaration(page) == {"0": ["Whereas."], "1": ["First.", "Second."]}


@pytest.mark.parametrize(
    "text, marks, lines",
    [
        ("_Open", "_&", ["Open"]),
        ("Save _As...", "_&", ["Save As..."]),
        ("Sho_w", "_&", ["Show"]),
        ("the enable_buttons key is true here.", "_&", ["the enable_buttons key is true here."]),
        ("~File", "~_", ["File"]),
        ("开始(_S)", "_&", ["开始"]),
        ("Cut &amp; <b>paste</b>", "&", ["Cut & paste"]),
        ("one<br/>two\\nthree", "", ["one", "two", "three"]),
        ("* point", "", ["point"]),
        ("a <directory> b", "", ["a <directory> b"]),
    ],
)
def test_plain_lines(text: str, marks: str, lines: list[str]) -> None:
    assert plain_lines(text, marks) == lines


def test_segments_by_line_and_by_sentence() -> None:
    assert list(segments(["a", "b"], ["x", "y"], False)) == [("a", "x"), ("b", "y")]
    assert list(segments(["a", "b"], ["x"], False)) == [("a b", "x")]
    both = ["One here. Two there."], ["Un aquí. Dos allà."]
    assert list(segments(*both, True)) == [("One here.", "Un aquí."), ("Two there.", "Dos allà.")]
    assert list(segments(*both, False)) == [(both[0][0], both[1][0])]
