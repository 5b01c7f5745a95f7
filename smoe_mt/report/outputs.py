"""What models translated: outputs as evaluations stored them, and the first run's beside those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.evaluation.files import COLUMNS, HYPOTHESES
from smoe_mt.evaluation.metrics import METRICS, Corpus
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.significance import Comparison, compare
from smoe_mt.files import open_plain
from smoe_mt.report.content import Text
from smoe_mt.report.run import Result, Run
from smoe_mt.tasks.data_folder import DIRECTION

CHRF = next(metric for metric in METRICS if metric.name == "chrf")


def table_of(result: Result, direction: str) -> Path:
    """The file with a direction's sources, outputs and references."""
    return result.folder / HYPOTHESES / f"{direction}.tsv"


def read_outputs(result: Result, direction: str) -> Corpus:
    """A direction as it was translated. UserError where the table is missing or damaged."""
    path = table_of(result, direction)
    remedy = "evaluate again"
    if not DIRECTION.fullmatch(direction):
        raise UserError(f"{result.folder}: {direction!r} is no direction; {remedy}")
    try:
        with open_plain(path) as stream:
            lines = stream.read().decode("utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text; {remedy}") from error
    rows = [tuple(line.split("\t")) for line in lines[:-1]]
    if len(rows) < 2 or rows[0] != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(f"{path}: is no table of source, hypothesis and reference; {remedy}")
    sources, hypotheses, references = zip(*rows[1:])
    return Corpus(direction, sources, hypotheses, references)


@dataclass(frozen=True)
class Differences:
    """chrF++ of later runs against the first, by name; `remarks`: why there is none of a run."""

    found: dict[str, Comparison]
    remarks: list[Text]


def differences(runs: Sequence[Run], split: str) -> Differences:
    """Every later run against the first, on the sentences of all directions together."""
    found: dict[str, Comparison] = {}
    remarks = []
    for run in runs[1:]:
        try:
            evaluations = [_evaluation(one, split) for one in (runs[0], run)]
            (found[run.name],) = compare(evaluations, each_direction=False)
        except UserError as error:
            remarks.append(Text(f"No difference between {runs[0].name} and {run.name}: {error}", missing=True))
    return Differences(found, remarks)


def _evaluation(run: Run, split: str) -> Evaluation:
    result = run.results.get(split)
    if result is None:
        others = f"; what there is of it: {', '.join(run.results)}" if run.results else ""
        raise UserError(f"{run.name} has no result of all of {split} with the usual search{others}")
    corpora = tuple(read_outputs(result, direction) for direction in result.scores["directions"])
    return Evaluation(run.name, corpora, {}, {}, {}, (CHRF,))
