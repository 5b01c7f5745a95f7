"""HTML manuals whose paragraphs carry the same ids in every language, and the Declaration of Human Rights."""

from __future__ import annotations

from pathlib import Path

from lxml import html

from smoe_mt.text import normalise

PREAMBLE = "0"


def paragraphs_by_id(path: Path) -> dict[str, str]:
    """Text of the paragraphs and headings that have an id; of keys that differ by system, those of Windows."""
    root = _root(path)
    for other_system in root.xpath("//span[@class='MAC' or @class='UNIX']"):
        other_system.drop_tree()
    elements = root.xpath("//*[self::p or self::h1 or self::h2 or self::h3 or self::h4 or self::h5 or self::h6][@id]")
    return {element.get("id"): normalise(element.text_content()) for element in elements}


def declaration(path: Path) -> dict[str, list[str]]:
    """Paragraphs of the preamble ("0") and of each article, without the headings; list items are paragraphs."""
    sections: dict[str, list[str]] = {}
    for section in _root(path).xpath("//header | //article"):
        items = section.xpath(".//p[not(ancestor::li)] | .//li")
        texts = [normalise(item.text_content()) for item in items]
        sections[section.get("data-number", PREAMBLE)] = [text for text in texts if text]
    return sections


def _root(path: Path) -> html.HtmlElement:
    return html.document_fromstring(path.read_bytes(), parser=html.HTMLParser(encoding="utf-8"))
