"""Language packs of Mozilla's applications (.xpi): zip archives of .ftl and .properties files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from fluent.syntax import ast

from data_prep.readers.fluent import plain_pattern, read_ftl
from data_prep.readers.properties import read_properties

LOCALE_FOLDER = re.compile(r"/(?:[a-z]{2,3}(?:-[A-Z]{2,4})?)(?=/)")
NOT_TEXT = re.compile(r"access-?key|commandkey|shortcut|\.key$|-key$|\.style$|css|width|height|\burl\b", re.IGNORECASE)


def last_form(value: str) -> str:
    """The last plural form of a value that lists several ("#1 day;#1 days")."""
    return value.split(";")[-1] if "#" in value and ";" in value else value


def read_xpi(path: Path, brands: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Text by (file, key); the locale's own folder names are taken out of the file, so that two packs have the same
    keys.

    ``brands`` gives terms that the pack itself does not define ("-brand-short-name": "Firefox").
    """
    patterns: dict[tuple[str, str], ast.Pattern] = {}
    texts: dict[tuple[str, str], str] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".ftl", ".properties")):
                continue
            text = archive.read(name).decode("utf-8", "replace")
            file = LOCALE_FOLDER.sub("/*", "/" + name)
            if name.endswith(".ftl"):
                patterns.update(((file, key), pattern) for key, pattern in read_ftl(text).items())
            else:
                texts.update(((file, key), last_form(value)) for key, value in read_properties(text).items())
    terms = {key: pattern for (_, key), pattern in patterns.items() if key.startswith("-")}
    terms |= {key: ast.Pattern([ast.TextElement(value)]) for key, value in brands.items()}
    for place, pattern in patterns.items():
        text_or_none = plain_pattern(pattern, terms)
        if text_or_none is not None and not place[1].startswith("-"):
            texts[place] = text_or_none
    return {place: text for place, text in texts.items() if not NOT_TEXT.search(place[1])}
