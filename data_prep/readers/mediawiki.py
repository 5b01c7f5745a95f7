"""MediaWiki's message files (i18n/xx.json) and the wiki mark-up of their messages."""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.files import say
from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json

FUNCTION = re.compile(r"\{\{\s*(PLURAL|GENDER|GRAMMAR|int)\s*:([^{}]*)\}\}", re.IGNORECASE)
SITE_NAME = re.compile(r"\{\{\s*SITENAME\s*\}\}", re.IGNORECASE)
LINK = re.compile(r"\[\[:?(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
OUTER_LINK = re.compile(r"\[(?:https?:|mailto:|\$|//)[^\s\]]*\s+([^\]]*)\]")
LINE_MARKS = re.compile(r"^[*#:;]+\s*|^=+\s*|\s*=+\s*$", re.MULTILINE)


def read_messages(path: Path) -> dict[str, str]:
    """Messages by key, without the file's metadata."""
    try:
        values = read_json(path, "skipped")
    except UserError as error:
        say(str(error))
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: text for key, text in values.items() if not key.startswith("@") and isinstance(text, str)}


def plain_wiki(text: str) -> str:
    """The message as its reader sees it: functions resolved (plural: the last form), links as their text."""
    text = SITE_NAME.sub("Wikipedia", text)
    for _ in range(4):
        text = FUNCTION.sub(_resolve, text)
    text = OUTER_LINK.sub(r"\1", LINK.sub(r"\1", text))
    return LINE_MARKS.sub("", re.sub("'{2,}", "", text))


def _resolve(match: re.Match[str]) -> str:
    name, arguments = match.group(1).lower(), match.group(2)
    first, _, rest = arguments.partition("|")
    forms = [form for form in rest.split("|") if not re.match(r"\s*\d+\s*=", form)]
    if name == "int":
        return first
    if name == "grammar" or not forms:
        return rest
    return forms[0] if name == "gender" else forms[-1]
