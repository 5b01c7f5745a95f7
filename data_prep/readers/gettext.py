"""Compiled gettext catalogues (.mo): English is the key, the translation the value."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

import polib

from data_prep.files import say


def read_mo(path: Path) -> Iterator[tuple[str, str]]:
    """(English, foreign) of each entry; of plurals the singular with form 0 and the plural with the last form.

    With one plural form that form translates the plural. Contexts (which precede \\x04 in the file) are left out.
    """
    try:
        catalogue = polib.mofile(str(path))
    except (OSError, UnicodeDecodeError, LookupError, ValueError, IndexError, struct.error) as error:
        say(f"skipped {path.name}: not a readable .mo file ({error})")
        return
    for entry in catalogue:
        if not entry.msgid_plural:
            yield entry.msgid, entry.msgstr
            continue
        forms = [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)]
        if len(forms) > 1:
            yield entry.msgid, forms[0]
        if forms:
            yield entry.msgid_plural, forms[-1]


def read_zipped_mo(path: Path, member: str) -> Iterator[tuple[str, str]]:
    """The entries of a .mo inside a zip archive."""
    with zipfile.ZipFile(path) as archive, NamedTemporaryFile(suffix=".mo", dir=path.parent) as file:
        file.write(archive.read(member))
        file.flush()
        yield from read_mo(Path(file.name))
