"""Small corpora and packages that the tests make themselves."""

from __future__ import annotations

import random
from pathlib import Path

FIRST = [
    "katu",
    "meri",
    "lolo",
    "pina",
    "susi",
    "taro",
    "vaka",
    "nene",
    "hiko",
    "mula",
    "zefa",
    "rinu",
    "opato",
    "gribi",
]
SECOND = [
    "street",
    "sea",
    "tree",
    "pine",
    "wolf",
    "king",
    "boat",
    "girl",
    "love",
    "star",
    "gold",
    "milk",
    "horse",
    "bread",
]


def toy_lines(count: int, seed: int = 0, fewest: int = 4, most: int = 9) -> list[tuple[str, str]]:
    """Sentences of an invented language with word-by-word English."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        words = [draw.randrange(len(FIRST)) for _ in range(draw.randint(fewest, most))]
        lines.append((" ".join(FIRST[word] for word in words), " ".join(SECOND[word] for word in words)))
    return lines


def write_tsv(path: Path, lines: list[tuple[str, str]]) -> None:
    """Two columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one}\t{other}\n" for one, other in lines), encoding="utf-8")
