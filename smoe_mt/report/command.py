"""``smoe-mt report``: one page about one run or several."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.errors import UserError
from smoe_mt.evaluation.command import run_names
from smoe_mt.files import check_output
from smoe_mt.progress import progress_bar
from smoe_mt.report.curves import read_curves
from smoe_mt.report.pages import sections
from smoe_mt.report.render import write_html, write_markdown
from smoe_mt.report.run import open_run
from smoe_mt.report.strata import analysis_of

WRITERS = {".html": write_html, ".htm": write_html, ".md": write_markdown}


def _with_the_runs(checkpoints: Sequence[Path]) -> Path:
    folder = Path(os.path.commonpath([checkpoint.parent.absolute() for checkpoint in checkpoints]))
    if folder == Path(folder.anchor):
        raise UserError("the runs have no folder in common: say with --out where the report goes")
    return folder / "report.html"


def run(args: argparse.Namespace) -> None:
    """Read what the runs have left, analyse those that were not, write the page. Raises UserError for what is no run."""
    out = Path(args.out) if args.out else _with_the_runs([find_checkpoint(path) for path in args.runs])
    if out.suffix.lower() not in WRITERS:
        raise UserError(f"--out {out}: a report is written as {' or '.join(WRITERS)}")
    check_output(out)
    checkpoints = [find_checkpoint(path) for path in args.runs]
    runs = [open_run(path, name, args.data) for path, name in zip(args.runs, run_names(checkpoints))]
    analyses = {run.name: analysis_of(run, args.split, args.data, args.device) for run in runs}
    with progress_bar(len(runs), "curves", unit="run") as bar:
        curves = {}
        for one in runs:
            curves[one.name] = read_curves(one)
            bar.update()
    title = "smoe_mt: " + ", ".join(one.name for one in runs)
    WRITERS[out.suffix.lower()](out, title, sections(runs, analyses, curves, args.split))
    print(out)
