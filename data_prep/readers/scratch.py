"""Scratch's message files: one JavaScript object of all languages."""

from __future__ import annotations

import json
from pathlib import Path

from data_prep.files import say


def read_scratch(path: Path) -> dict[str, dict[str, str]]:
    """Messages by language and key."""
    text = path.read_text(encoding="utf-8")
    try:
        return dict(json.loads(text[text.index("{") : text.rindex("}") + 1]))
    except ValueError as error:
        say(f"skipped {path.name}: no JSON object in it ({error})")
        return {}
