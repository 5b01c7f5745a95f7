"""A report as one HTML file or as Markdown, each with a folder of tables and figures beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smoe_mt.files import output, write_bytes, writing
from smoe_mt.report.content import Picture, Section, Table
from smoe_mt.report.table_files import as_markdown, escape_markdown, write_tables
from smoe_mt.text_direction import direction_of

READABLE = 0.8  # of a drawing's own size: letters of 8 points are then as large as 6.4
SHOWN_IN_MARKDOWN = 3  # sentences of each direction; a browser shows all


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """One file that needs nothing else: styles, script and pictures are in it. Beside it tables and figures for papers."""
    write_files(files_of(path), sections)
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
    environment.filters["readable_width"] = readable_width
    page = environment.get_template("report.html.j2").render(title=title, sections=sections)
    with output(path) as stream:
        stream.write(page)


def write_markdown(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `path`, and beside it tables and figures for papers, with the pictures as PNG that it shows."""
    pictures = files_of(path)
    write_files(pictures, sections, "png")
    environment = _environment(autoescape=False)
    environment.filters |= {"md": escape_markdown, "fence": fence, "marked": marked_tokens, "as_markdown": as_markdown}
    content = {"title": title, "sections": sections, "pictures": pictures.name, "most": SHOWN_IN_MARKDOWN}
    text = environment.get_template("report.md.j2").render(**content)
    with output(path) as stream:
        stream.write(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def files_of(path: Path) -> Path:
    """The folder beside a report."""
    return path.with_name(f"{path.stem}_files")


def write_files(folder: Path, sections: Sequence[Section], *kinds: str) -> None:
    """Tables as LaTeX, CSV and Markdown, figures as PDF and as `kinds`."""
    blocks = [block for section in sections for block in section.blocks]
    with writing(folder):
        folder.mkdir(exist_ok=True)
    write_tables(folder, [block for block in blocks if isinstance(block, Table)])
    for block in blocks:
        if isinstance(block, Picture):
            for kind in ("pdf", *kinds):
                if content := getattr(block, kind):
                    write_bytes(folder / f"{block.name}.{kind}", content)


def readable_width(svg: bytes) -> int:
    """Pixels that a drawing needs at least for its text to be readable: on a narrower screen it is scrolled."""
    found = re.search(rb'<svg[^>]*?\swidth="([0-9]{1,6})(?:\.[0-9]{0,9})?pt"', svg[:4096])
    return int(READABLE * int(found[1]) * 4 / 3) if found else 0


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("smoe_mt.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["written"] = direction_of
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # and directions in their own order
    return environment


def fence(text: str) -> str:
    """The fence of a code block that `text` cannot close."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def marked_tokens(side: Mapping[str, Any]) -> str:
    """The tokens of a side, each with its mean visits over the side's blocks behind it."""
    return " ".join(f"{escape_markdown(token)}<sub>{mean:.3g}</sub>" for token, mean in _means(side))


def _means(side: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    blocks = list(side["visits"].values())
    for place, token in enumerate(side["tokens"]):
        yield token, sum(visits[place] for visits in blocks) / max(len(blocks), 1)
