"""What an evaluation leaves behind: hypotheses as they come, one TSV a direction for people, and scores.json last.

A record next to the hypotheses says what they were made from, so that they can be reused.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.files import CannotWrite, open_plain, write_json, write_text
from smoe_mt.json_files import read_json_object
from smoe_mt.tasks.data_folder import DIRECTION

SCORES = "scores.json"
COMPARISON = "comparison.json"
HYPOTHESES = "hypotheses"
RECORD = "made_from.json"
FORMAT = 1
COLUMNS = ("source", "hypothesis", "reference")  # of a table for people


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
        self._directions: dict[str, dict[str, str]] = _entries(record) if known else {}
        self._fresh = not known

    def kept(self, text: Corpus) -> tuple[str, ...] | None:
        """The hypotheses for exactly these sources, if they are there as they were written."""
        entry = self._directions.get(text.direction)
        if entry is None or entry.get("sources") != checksum(text.sources):
            return None
        try:
            with open_plain(self._file(text.direction, ".hyp")) as stream:
                lines = stream.read().decode("utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None
        return tuple(lines) if entry.get("hypotheses") == checksum(lines) else None

    def keep(self, corpus: Corpus) -> None:
        """Write the hypotheses of a direction. Scores that are there are removed: they are of other hypotheses."""
        if (self.folder / HYPOTHESES).is_symlink():
            raise UserError(f"{self.folder / HYPOTHESES} is a link, and files would be removed elsewhere: remove it")
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
        """Remove an earlier evaluation: its scores first, so that they never belong to other hypotheses."""
        folder, record = self.folder / HYPOTHESES, _entries(_read_json(self.folder / HYPOTHESES / RECORD))
        directions = {*record, *_entries(_read_json(self.folder / SCORES))}
        (self.folder / SCORES).unlink(missing_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        for direction in directions:
            hypotheses, table = self._file(direction, ".hyp"), self._file(direction, ".tsv")
            if _sha256(hypotheses) == record.get(direction, {}).get("hypotheses"):
                hypotheses.unlink(missing_ok=True)
            if _begins_with(table, "\t".join(COLUMNS) + "\n"):
                table.unlink()
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
    except UserError:
        raise
    except OSError as error:
        raise CannotWrite(str(folder), error.errno, error.strerror or str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty for one that is missing or damaged."""
    try:
        return read_json_object(path)
    except UserError:
        return {}


def _entries(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a record or scores.json says of each direction; others' files are never named after its keys."""
    found = content.get("directions")
    entries = found.items() if isinstance(found, dict) else ()
    return {name: one if isinstance(one, dict) else {} for name, one in entries if DIRECTION.fullmatch(name)}


def _sha256(path: Path) -> str | None:
    try:
        with open_plain(path) as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return None


def _begins_with(path: Path, text: str) -> bool:
    try:
        with open_plain(path) as stream:
            return stream.read(len(text)) == text.encode("utf-8")
    except OSError:
        return False


def _side_by_side(corpus: Corpus) -> str:
    rows = [COLUMNS, *zip(corpus.sources, corpus.hypotheses, corpus.references)]
    return "".join("\t".join(cell.replace("\t", " ") for cell in row) + "\n" for row in rows)
