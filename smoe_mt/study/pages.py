"""A page of the documentation that has a section for each study, between two marks."""

from __future__ import annotations

from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.files import write_text


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's marks of this study. UserError where it has none."""
    begin, end = f"<!-- study {name} -->", f"<!-- end of {name} -->"
    content = page.read_text(encoding="utf-8")
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page}: has no lines {begin} and {end}, between which the results would stand")
    write_text(page, f"{before}{begin}\n{text}{end}{after}")
