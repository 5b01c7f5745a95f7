"""From catalogue strings to sentences: tags, entities, escapes and accelerators go, lines and sentences are paired."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

BREAK = re.compile(r"</?(?:p|br|li|ul|ol|div|h\d|para|title|item|tr|td)\b[^<>]*>|\r?\n|\\n", re.IGNORECASE)
TAG = re.compile(
    r"</?(?:a|abbr|b|bdi|big|blockquote|button|cite|code|dd|del|dfn|div|dl|dt|em|font|head|hr|html|i|img|input|ins|kbd"
    r"|label|link|nowiki|pre|q|s|samp|small|span|strike|strong|sub|sup|table|tbody|tt|u|var)\b[^<>]{0,400}>|<!--.*?-->",
    re.IGNORECASE,
)
ENTITY = re.compile(r"&(?:[A-Za-z]\w*|#\d+|#x[0-9a-fA-F]+);")
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u00ad\u2060\ufeff\u202a\u202b\u202c"), "")
PARENTHESISED_ACCELERATOR = re.compile(r"\s*[(（][_&~^]\w[)）]")
BULLET = re.compile(r"^(?:[*•·]|-(?=\s))\s*(?=\w)")
SNAKE_CASE = re.compile(r"[A-Z0-9]_[A-Z0-9]|\w_\w*[._]\w|\w\.\w*_\w")
SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’)]*\s+(?=[\"'“‘(¿¡]*[^\W\d_a-z])")


def without_accelerators(text: str, marks: str) -> str:
    """A label without the marks ("_", "&", "~", "^") that show its accelerator key."""
    if not marks or not any(mark in text for mark in marks):
        return text
    text = PARENTHESISED_ACCELERATOR.sub("", text)
    for mark in "~^":
        if mark in marks and text.count(mark) == 1:
            text = re.sub(re.escape(mark) + r"(?=\w)", "", text)
    if "&" in marks and "&&" not in text and not ENTITY.search(text):
        text = re.sub(r"&(?=\w)", "", text)
    if "_" in marks and text.count("_") == 1:
        text = re.sub(r"(?<!\w)_(?=\w)", "", text)
        short_label = len(text.split()) <= 5 and (
            len(text.split()) <= 2 or text.endswith("...") or not text.endswith((".", "。"))
        )
        if short_label and not SNAKE_CASE.search(text):
            text = re.sub(r"(?<=\w)_(?=\w)", "", text)
    return text


def plain_lines(text: str, marks: str = "") -> list[str]:
    """The lines of a string as its reader sees them; unresolved entities stay (and are filtered later)."""
    text = text.replace('\\"', '"').replace("\\t", " ").replace("\\'", "'")
    text = BREAK.sub("\n", without_accelerators(text.replace("\u2026", "..."), marks))
    text = html.unescape(TAG.sub("", text)).translate(INVISIBLE)
    lines = (BULLET.sub("", " ".join(line.split())) for line in TAG.sub("", text).split("\n"))
    return [line for line in lines if line]


def segments(first: list[str], second: list[str], sentences: bool) -> Iterator[tuple[str, str]]:
    """Line with line if both sides have as many, else all with all; within lines sentence with sentence, likewise."""
    if len(first) != len(second):
        first, second = [" ".join(first)], [" ".join(second)]
    for one, other in zip(first, second):
        ones, others = SENTENCE_END.split(one), SENTENCE_END.split(other)
        if (
            sentences
            and len(ones) == len(others)
            and all(0.35 < (len(b) + 5) / (len(a) + 5) < 2.8 for a, b in zip(ones, others))
        ):
            yield from zip(ones, others)
        else:
            yield one, other
