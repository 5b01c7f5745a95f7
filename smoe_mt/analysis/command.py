"""``smoe-mt analyse``: requested capacity of a trained SMoE model."""

from __future__ import annotations

import argparse
from pathlib import Path

from smoe_mt.analysis.capacity import CapacityReport, Request, requested_capacity
from smoe_mt.analysis.figures import draw
from smoe_mt.analysis.text import as_csv, collapse_message, direction_table, histograms
from smoe_mt.errors import UserError
from smoe_mt.evaluation.files import write_json, write_text
from smoe_mt.generation.checkpoint import load_model, results_folder, run_name_parts

NUMBERS = "requested_capacity.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("run", metavar="RUN", help="run folder (--save-dir) or checkpoint file")
    parser.add_argument("--data", help="data folder, where it is not where it was in training")
    parser.add_argument("--split", default="test", help="split to read (default: %(default)s)")
    parser.add_argument("--directions", nargs="+", help="only these, such as nso-en,en-nso (default: all of the split)")
    parser.add_argument("--limit", type=int, help="only the first LIMIT sentences of each direction")
    parser.add_argument("--out", help="folder for the results (default: RUN/analysis/SPLIT)")
    parser.add_argument(
        "--max-tokens", type=int, default=4096, help="tokens of a side in a batch (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Analyse, write numbers and figures, print histograms. Raises UserError for a model without strata."""
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: it must be 1 or more")
    loaded = load_model(args.run, args.data, args.device)
    request = Request(args.split, tuple(args.directions or ()), args.limit, args.max_tokens)
    report = requested_capacity(loaded, request, run_name_parts(loaded.checkpoint)[-1])
    folder = Path(args.out) if args.out else results_folder(loaded.checkpoint, "analysis") / args.split
    written = write(report, folder)
    print("\n".join(["", direction_table(report), "", histograms(report), ""]))
    message = collapse_message(report)
    if message:
        print(f"{message}\n")
    for path in written:
        print(path)


def write(report: CapacityReport, folder: Path) -> list[Path]:
    """Figures, the CSV, and last the JSON, into `folder`. No figure where every block has collapsed: it would show nothing.

    Returns what was written; UserError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NUMBERS).unlink(missing_ok=True)
        written = []
        if len(report.visits.collapsed()) < len(report.visits.blocks):
            written += draw(report, folder)
        else:
            for old in folder.glob("capacity_by_*"):
                old.unlink()
        write_text(folder / "requested_capacity.csv", as_csv(report))
        write_json(folder / NUMBERS, report.as_json())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return [*written, folder / "requested_capacity.csv", folder / NUMBERS]
