"""``smoe-mt analyse``: what the gates of a trained model do with the text of a split."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoe_mt.analysis.capacity import CapacityReport, Request, requested_capacity
from smoe_mt.analysis.figures import FIGURES
from smoe_mt.analysis.frequency import TRAINING, FrequencyRanks
from smoe_mt.analysis.needed import check_visits_vary, needed_capacity
from smoe_mt.analysis.sentences import ShownSentences
from smoe_mt.analysis.text import as_csv, collapse_message, direction_table, histograms
from smoe_mt.analysis.tokens import TokenCapacity
from smoe_mt.checkpoints.locate import results_folder, run_name_parts
from smoe_mt.errors import UserError
from smoe_mt.evaluation.identity import routing_parts
from smoe_mt.files import atomic_text, write_json, write_text
from smoe_mt.generation.arguments import routing_of
from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.generation.routing import rerouting
from smoe_mt.moe.names import blocks_of
from smoe_mt.progress import progress_bar

NUMBERS = "requested_capacity.json"
TABLE = "requested_capacity.csv"
NEEDED = "needed_capacity.json"
TOKENS = "tokens.csv"
SENTENCES = "sentences.json"


def run(args: argparse.Namespace) -> None:
    """Analyse, write numbers and figures, print histograms. Raises UserError for a model without experts."""
    options = routing_of(args)
    loaded = load_model(args.run, args.data, args.device, verify=args.verify)
    if args.needed:
        check_visits_vary(loaded)
    request = Request(args.split, tuple(args.directions or ()), args.limit, args.max_tokens)
    own = results_folder(loaded.checkpoint, "analysis") / ".".join([args.split, *routing_parts(options)])
    folder = Path(args.out) if args.out else own
    routing = rerouting(loaded, options)
    if routing.calibrated is not None:
        print(routing.calibrated)
    with routing.opened():
        report, written = analyse(loaded, request, folder, args.min_count, routing.as_json())
        if args.needed:
            written.append(write_needed(loaded, request, folder))
    if report.varies:
        print("\n".join(["", direction_table(report), "", histograms(report), ""]))
    message = collapse_message(report)
    if message:
        print(f"{message}\n")
    for path in written:
        print(path)


def analyse(
    loaded: LoadedModel,
    request: Request,
    folder: Path,
    min_count: int = 5,
    routing: Mapping[str, Any] | None = None,
) -> tuple[CapacityReport, list[Path]]:
    """Read a split and write all that there is to say of it into `folder`, requested_capacity.json last.

    `routing`: what another routing than in training was in force, for the record.

    Returns the report and what was written. Raises UserError where the model has no experts, the split or a direction is
    unknown, or the folder cannot be written.
    """
    task = loaded.task
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NUMBERS).unlink(missing_ok=True)
        blocks = blocks_of(loaded.model)
        sentences = ShownSentences(blocks, task.dictionary)
        ranks = FrequencyRanks(task, request.split)
        name = run_name_parts(loaded.checkpoint)[-1]
        with atomic_text(folder / TOKENS) as stream:
            tokens = TokenCapacity(blocks, task.dictionary, ranks, stream, min_count)
            report = requested_capacity(loaded, request, name, (tokens, sentences))
        report.extremes.extend(tokens.extremes)
        report.details["ranks"] = counted_where(ranks)
        report.details["min_count"] = min_count
        if routing:
            report.details["routing"] = dict(routing)
        write_json(folder / SENTENCES, {"directions": sentences.as_json()})
        return report, [*write(report, folder), folder / TOKENS, folder / SENTENCES]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def write_needed(loaded: LoadedModel, request: Request, folder: Path) -> Path:
    """Measure needed capacity and write it into `folder`. UserError for a model without strata."""
    name = run_name_parts(loaded.checkpoint)[-1]
    needed = needed_capacity(loaded, request, FrequencyRanks(loaded.task, request.split), name)
    write_json(folder / NEEDED, needed.as_json())
    return folder / NEEDED


def counted_where(ranks: FrequencyRanks) -> str:
    """In which text token frequencies were counted."""
    elsewhere = [language for language, split in ranks.counted.items() if split != TRAINING]
    if not elsewhere:
        return "training text"
    if len(elsewhere) == len(ranks.counted):
        return f"held-out text of {ranks.split} (there is no training text here)"
    return f"training text (held-out text of {ranks.split} for {', '.join(elsewhere)})"


def write(report: CapacityReport, folder: Path) -> list[Path]:
    """The figures with their numbers, the CSV and last the JSON, into `folder`, which exists; returns what was written."""
    written = []
    with progress_bar(len(FIGURES), "figures", unit="figure") as bar:
        for figure in FIGURES:
            written += figure.write(report, folder)
            bar.update()
    write_text(folder / TABLE, as_csv(report))
    write_json(folder / NUMBERS, report.as_json())
    return [*written, folder / TABLE, folder / NUMBERS]
