"""What an evaluation leaves behind: hypotheses as they come, one TSV a direction for people, and scores.json last.

A record next to the hypotheses says what they were made from, so that they can be used again, also by another evaluation of
the run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError, reason_of
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.evaluation.scores import GROUPS
from smoe_mt.files import CannotWrite, open_plain, write_json, write_text
from smoe_mt.json_files import read_json_object
from smoe_mt.scores_file import USUAL
from smoe_mt.tasks.data_folder import DIRECTION

SCORES = "scores.json"
COMPARISON = "comparison.json"
HYPOTHESES = "hypotheses"
RECORD = "made_from.json"
FORMAT = 1
COMPARISON_FORMAT = 2
COMPARED = ("baseline", "checkpoints", "text", "partial")  # what a comparison is of
COLUMNS = ("source", "hypothesis", "reference")  # of a table for people
#: Entries of scores.json: what scores of one text by one model can differ in, and what each metric adds something to.
SEARCH = tuple(USUAL)
MERGED = ("metrics", "directions", *GROUPS, "classes", "baselines")


class Stored:
    """Hypotheses of one folder that were made from `made_from`."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any]) -> None:
        self.folder = folder
        record = _read_json(folder / HYPOTHESES / RECORD)
        #: Whether what lies there was made from the same; then its entries by direction.
        self.known = record.get("format") == FORMAT and record.get("made_from") == made_from
        self.directions: dict[str, dict[str, Any]] = _entries(record) if self.known else {}

    def find(self, text: Corpus) -> tuple[str, ...] | None:
        """The hypotheses for exactly these sources, if they are there as they were written."""
        entry = self.directions.get(text.direction)
        if entry is None or entry.get("sources") != checksum(text.sources):
            return None
        try:
            with open_plain(self.file(text.direction, ".hyp")) as stream:
                lines = stream.read().decode("utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None
        return tuple(lines) if entry.get("hypotheses") == checksum(lines) else None

    def file(self, direction: str, suffix: str) -> Path:
        """A file of a direction."""
        return self.folder / HYPOTHESES / f"{direction}{suffix}"


class Results:
    """The folder of one evaluation.

    `made_from`: all that hypotheses depend on, the text aside (weights, vocabulary, search). Hypotheses of something else
    that lie in the folder are removed when the first new ones are written, their scores with them. `again`: use none that are
    there. `beside`: a folder of evaluations, whose hypotheses are used too where they were made from the same. The methods
    that write raise UserError where the folder cannot be written.
    """

    def __init__(
        self, folder: Path, made_from: dict[str, Any], again: bool = False, beside: Path | None = None
    ) -> None:
        self.folder = folder
        self._made_from = made_from
        self._own = own = Stored(folder, made_from)
        self._fresh = again or not own.known
        self._directions: dict[str, dict[str, Any]] = {} if again else own.directions
        self._stores = [] if again else [own, *(Stored(other, made_from) for other in _others(beside, folder))]

    def kept(self, text: Corpus) -> tuple[str, ...] | None:
        """The hypotheses for exactly these sources, if they are there as they were written."""
        found = (store.find(text) for store in self._stores)
        return next((hypotheses for hypotheses in found if hypotheses is not None), None)

    def refuse_to_replace(self, texts: Sequence[Corpus], about: Mapping[str, Any]) -> None:
        """UserError where the folder's scores are of another search, or of text that is not all among `texts`.

        `about`: the entries of the new scores.json that say what they are of.
        """
        found = _read_json(self.folder / SCORES)
        if not found:
            return
        sizes = {text.direction: len(text.sources) for text in texts}
        larger = [name for name, one in _entries(found).items() if _count(one) > sizes.get(name, 0)]
        partial = bool(about["left_out"]["sentences"] or about["left_out"]["directions"])
        # What an earlier version did not write was as usual.
        other = [name for name in SEARCH if found.get(name, USUAL[name]) != about[name]]
        if other or (partial and larger):
            what = f"more text ({', '.join(larger[:3])})" if not other else f"another {', '.join(other)}"
            raise UserError(
                f"{self.folder / SCORES} is of {what} and would be replaced; give another folder with --out, or remove it"
            )

    def keep(self, corpus: Corpus) -> None:
        """Write the hypotheses of a direction. Scores that are there are removed: they are of other hypotheses."""
        if (self.folder / HYPOTHESES).is_symlink():
            raise UserError(f"{self.folder / HYPOTHESES} is a link, and files would be removed elsewhere: remove it")
        with _writing(self.folder):
            (self.folder / HYPOTHESES).mkdir(parents=True, exist_ok=True)
            if self._fresh:
                self._forget()
            (self.folder / SCORES).unlink(missing_ok=True)
            write_text(self._own.file(corpus.direction, ".hyp"), "".join(line + "\n" for line in corpus.hypotheses))
            self._directions[corpus.direction] = _entry(corpus)
            record = {"format": FORMAT, "made_from": self._made_from, "directions": self._directions}
            write_json(self.folder / HYPOTHESES / RECORD, record)

    def finish(self, corpora: Iterable[Corpus], scores: dict[str, Any]) -> Path:
        """Write the tables for people and scores.json, whose presence says that all is there; returns the latter's path.

        Metrics that scores.json has of the same hypotheses and that were not asked for this time stay in it.
        """
        scores = with_earlier_metrics(scores, _read_json(self.folder / SCORES))
        with _writing(self.folder):
            for corpus in corpora:
                if self._directions.get(corpus.direction) != _entry(corpus):  # found in another folder
                    self.keep(corpus)
                write_text(self._own.file(corpus.direction, ".tsv"), _side_by_side(corpus))
            write_json(self.folder / SCORES, scores)
        return self.folder / SCORES

    def _forget(self) -> None:
        """Remove an earlier evaluation: its scores first, so that they never belong to other hypotheses."""
        folder, record = self.folder / HYPOTHESES, _entries(_read_json(self.folder / HYPOTHESES / RECORD))
        directions = {*record, *_entries(_read_json(self.folder / SCORES))}
        (self.folder / SCORES).unlink(missing_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        for direction in directions:
            hypotheses, table = self._own.file(direction, ".hyp"), self._own.file(direction, ".tsv")
            if _sha256(hypotheses) == record.get(direction, {}).get("hypotheses"):
                hypotheses.unlink(missing_ok=True)
            if _begins_with(table, "\t".join(COLUMNS) + "\n"):
                table.unlink()
        self._fresh = False


def with_earlier_metrics(scores: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """New scores with what `earlier` has besides, where those are of the same hypotheses, references and scorers."""
    if not earlier or any(earlier.get(name) != scores.get(name) for name in ("checksums", "tokenize", "versions")):
        return scores
    return scores | {
        name: _merged(earlier[name], scores[name]) for name in MERGED if name in earlier and name in scores
    }


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def write_comparison(folder: Path, new: Mapping[str, Any]) -> Path:
    """Add a comparison to comparison.json, in place of an earlier one of the same checkpoints on the same text; returns its path.

    Raises UserError where the folder cannot be written.
    """
    found = _read_json(folder / COMPARISON)
    earlier = found.get("comparisons") if found.get("format") == COMPARISON_FORMAT else None
    entries = [one for one in earlier if isinstance(one, dict)] if isinstance(earlier, list) else []
    kept = [one for one in entries if any(one.get(name) != new[name] for name in COMPARED)]
    with _writing(folder):
        write_json(folder / COMPARISON, {"format": COMPARISON_FORMAT, "comparisons": [*kept, new]})
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
        raise CannotWrite(str(folder), error.errno, reason_of(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty for one that is missing or damaged."""
    try:
        return read_json_object(path)
    except UserError:
        return {}


def _entry(corpus: Corpus) -> dict[str, Any]:
    return {"sources": checksum(corpus.sources), "hypotheses": checksum(corpus.hypotheses)}


def _count(entry: Mapping[str, Any]) -> int:
    count = entry.get("sentences")
    return count if isinstance(count, int) else 0


def _others(beside: Path | None, folder: Path) -> Iterator[Path]:
    """The folders with hypotheses in a folder of evaluations: the run's own, those of other checkpoints and ensembles."""
    records = sorted(beside.glob(f"**/{HYPOTHESES}/{RECORD}")) if beside is not None else []
    return (record.parent.parent for record in records if record.parent.parent != folder)


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
