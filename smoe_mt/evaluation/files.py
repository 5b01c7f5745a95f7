"""What an evaluation leaves behind: hypotheses as text, one TSV a direction for people, and scores.json last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus

SCORES = "scores.json"
HYPOTHESES = "hypotheses"


def write_evaluation(folder: Path, corpora: Iterable[Corpus], scores: dict[str, Any]) -> Path:
    """Write hypotheses and scores into `folder`; returns the path of scores.json, whose presence says that all is there.

    Raises UserError where the folder cannot be written.
    """
    try:
        (folder / HYPOTHESES).mkdir(parents=True, exist_ok=True)
        _forget(folder)
        for corpus in corpora:
            base = folder / HYPOTHESES / corpus.direction
            write_text(base.with_suffix(".hyp"), "".join(line + "\n" for line in corpus.hypotheses))
            write_text(base.with_suffix(".tsv"), _side_by_side(corpus))
        write_json(folder / SCORES, scores)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder / SCORES


def _forget(folder: Path) -> None:
    """Remove an earlier evaluation: its scores first, so that they never stand beside other hypotheses."""
    scores = folder / SCORES
    if not scores.is_file():
        return
    try:
        directions = list(json.loads(scores.read_text(encoding="utf-8"))["directions"])
    except (ValueError, KeyError, TypeError):
        directions = []
    scores.unlink()
    for direction in directions:
        for suffix in (".hyp", ".tsv"):
            (folder / HYPOTHESES / direction).with_suffix(suffix).unlink(missing_ok=True)


def _side_by_side(corpus: Corpus) -> str:
    rows = [("source", "hypothesis", "reference"), *zip(corpus.sources, corpus.hypotheses, corpus.references)]
    return "".join("\t".join(cell.replace("\t", " ") for cell in row) + "\n" for row in rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """JSON for people too: indented, readable letters, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text that gets its name only once it is whole."""
    with partial_text(path) as stream:
        stream.write(text)


@contextmanager
def partial_text(path: Path) -> Iterator[TextIO]:
    """A stream of UTF-8 text into a file beside `path`, which gets its name when the block ends without an error."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """A file that gets its name only once it is whole."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
