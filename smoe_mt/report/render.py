"""A report as one HTML file, or as Markdown with a folder of pictures."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from smoe_mt.files import output, write_bytes, writing
from smoe_mt.report.content import Picture, Section

SHOWN_IN_MARKDOWN = 3  # sentences of each direction; a browser shows all


def write_html(path: Path, title: str, sections: Sequence[Section]) -> None:
    """One file that needs nothing else: styles, script and pictures are in it."""
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
    page = environment.get_template("report.html.j2").render(title=title, sections=sections)
    with output(path) as stream:
        stream.write(page)


def write_markdown(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `path`, and a folder of the same name with the pictures as PNG."""
    environment = _environment(autoescape=False)
    pictures = path.with_name(f"{path.stem}_files")
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Picture):
            with writing(pictures):
                pictures.mkdir(exist_ok=True)
            write_bytes(pictures / f"{block.name}.png", block.png)
    environment.filters |= {"md": escape_markdown, "fence": fence, "marked": marked_tokens}
    content = {"title": title, "sections": sections, "pictures": pictures.name, "most": SHOWN_IN_MARKDOWN}
    text = environment.get_template("report.md.j2").render(**content)
    with output(path) as stream:
        stream.write(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("smoe_mt.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # and directions in their own order
    return environment


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell too."""
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


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
