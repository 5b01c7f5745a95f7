"""What a study leaves behind: results.json and results.md in its folder, and a section of a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.files import write_json, write_text


def write_content(folder: Path, content: Mapping[str, Any], text: str, page: str | None) -> list[Path]:
    """Write the results of the study ``folder.name`` as `content` and as Markdown `text`, the latter on `page` too; what was written."""
    written = [folder / "results.json", folder / "results.md"]
    write_json(written[0], content)
    write_text(written[1], text)
    if page:
        write_section(Path(page), folder.name, text)
    return [*written, *([Path(page)] if page else [])]


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's marks of this study. UserError where it has none."""
    begin, end = f"<!-- study {name} -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page}: has no lines {begin} and {end}, between which the results would stand")
    write_text(page, f"{before}{begin}\n{text}{end}{after}")
