"""What an evaluation leaves behind: hypotheses as they come, one TSV a direction for people, and scores.json last.

A record beside the hypotheses says what they were made from, so that those that are there need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.files import beside
from smoe_mt.json_files import read_json_object

SCORES = "scores.json"
COMPARISON = "comparison.json"
HYPOTHESES = "hypotheses"
RECORD = "made_from.json"
FORMAT = 1


class Results:
    """The folder of one evaluation.

    `made_from`: all that hypotheses depend on, the text aside (checkpoint, vocabulary, search). Hypotheses of something else
    that lie in the folder are removed when the first new ones are written, their scores with them. `again`: use none that are
    there. The methods that write raise UserError where the folder cannot be written.
    """

    def __init__(self, folder: Path, made_from: dict[str, Any], again: bool = False) -> None:
        self.folder = folder
        self._made_from = made_from
        record = _read_json(folder / HYPOTHESES / RECORD)
        known = record.get("format") == FORMAT and record.get("made_from") == made_from and not again
        self._directions: dict[str, dict[str, str]] = record.get("directions", {}) if known else {}
        self._fresh = not known

    def kept(self, text: Corpus) -> tuple[str, ...] | None:
        """The hypotheses for exactly these sources, if they are there as they were written."""
        entry = self._directions.get(text.direction)
        if entry is None or entry["sources"] != checksum(text.sources):
            return None
        try:
            lines = self._file(text.direction, ".hyp").read_bytes().decode("utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None
        return tuple(lines) if entry["hypotheses"] == checksum(lines) else None

    def keep(self, corpus: Corpus) -> None:
        """Write the hypotheses of a direction. Scores that are there are removed: they are of other hypotheses."""
        with _writing(self.folder):
            (self.folder / HYPOTHESES).mkdir(parents=True, exist_ok=True)
            if self._fresh:
                self._forget()
            (self.folder / SCORES).unlink(missing_ok=True)
            write_text(self._file(corpus.direction, ".hyp"), "".join(line + "\n" for line in corpus.hypotheses))
            self._directions[corpus.direction] = {
                "sources": checksum(corpus.sources),
                "hypotheses": checksum(corpus.hypotheses),
            }
            record = {"format": FORMAT, "made_from": self._made_from, "directions": self._directions}
            write_json(self.folder / HYPOTHESES / RECORD, record)

    def finish(self, corpora: Iterable[Corpus], scores: dict[str, Any]) -> Path:
        """Write the tables for people and scores.json, whose presence says that all is there; returns the latter's path."""
        with _writing(self.folder):
            for corpus in corpora:
                write_text(self._file(corpus.direction, ".tsv"), _side_by_side(corpus))
            write_json(self.folder / SCORES, scores)
        return self.folder / SCORES

    def _file(self, direction: str, suffix: str) -> Path:
        return self.folder / HYPOTHESES / f"{direction}{suffix}"

    def _forget(self) -> None:
        """Remove an earlier evaluation: its scores first, so that they never stand beside other hypotheses."""
        old = [_read_json(self.folder / SCORES), _read_json(self.folder / HYPOTHESES / RECORD)]
        (self.folder / SCORES).unlink(missing_ok=True)
        (self.folder / HYPOTHESES / RECORD).unlink(missing_ok=True)
        for direction in {direction for content in old for direction in content.get("directions", ())}:
            for suffix in (".hyp", ".tsv"):
                self._file(direction, suffix).unlink(missing_ok=True)
        self._fresh = False


def write_comparison(folder: Path, content: dict[str, Any], comparisons: Sequence[dict[str, Any]]) -> Path:
    """Write comparison.json: what was compared, then an entry for each system, metric and direction; returns its path.

    Raises UserError where the folder cannot be written.
    """
    with _writing(folder):
        write_json(folder / COMPARISON, {"format": FORMAT, **content, "comparisons": list(comparisons)})
    return folder / COMPARISON


def check_writable(folder: Path) -> None:
    """Make the folder. Raises UserError where it cannot be written."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def checksum(lines: Sequence[str]) -> str:
    """SHA-256 of lines of text."""
    return hashlib.sha256("".join(line + "\n" for line in lines).encode("utf-8")).hexdigest()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty for one that is missing or damaged."""
    try:
        return read_json_object(path)
    except UserError:
        return {}


def _side_by_side(corpus: Corpus) -> str:
    rows = [("source", "hypothesis", "reference"), *zip(corpus.sources, corpus.hypotheses, corpus.references)]
    return "".join("\t".join(cell.replace("\t", " ") for cell in row) + "\n" for row in rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """JSON for people too: indented, readable letters, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text that gets its name only once it is whole and on the disk."""
    with partial_text(path) as stream:
        stream.write(text)


@contextmanager
def partial_text(path: Path) -> Iterator[TextIO]:
    """A stream of UTF-8 text into a file beside `path`, which gets its name when the block ends without an error."""
    with beside(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def write_bytes(path: Path, content: bytes) -> None:
    """A file that gets its name only once it is whole and on the disk."""
    with beside(path) as temporary:
        temporary.write_bytes(content)
