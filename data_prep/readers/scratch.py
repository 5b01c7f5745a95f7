"""Scratch's message files: one JavaScript object of all languages."""

from __future__ import annotations

from pathlib import Path

from data_prep.files import say
from smoe_mt.json_files import parse_json


def read_scratch(path: Path) -> dict[str, dict[str, str]]:
    """Messages by language and key."""
    text = path.read_text(encoding="utf-8")
    try:
        return dict(parse_json(text[text.index("{") : text.rindex("}") + 1]))
    except ValueError as error:
        say(f"skipped {path.name}: no JSON object in it ({error})")
        return {}
