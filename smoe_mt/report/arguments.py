"""Arguments of ``smoe-mt report``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt report runs/nordic
  smoe-mt report runs/dense runs/smoe --out comparison.html"""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument(
        "--out",
        type=flags.file,
        help="file to write, .html or .md (default: RUN/report.html; of several runs in the folder that they have in common); "
        "NAME_files beside it gets tables as LaTeX, CSV and Markdown, and figures as PDF",
    )
    parser.add_argument("--data", type=flags.path, help="data folder, if it has moved since training")
    parser.add_argument(
        "--split", default="test", help="split of the analysis and of the paper's table (default: test)"
    )
    parser.add_argument(
        "--device",
        type=flags.device,
        default="auto",
        help="device of an analysis: auto, cpu or cuda (default: %(default)s)",
    )
