"""Arguments of ``smoe-mt study``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.study.plan import known_plans

STAGES = ("train", "evaluate", "analyse")
RESULTS = "results"  # the last stage, which needs no process of its own
EXAMPLES = """examples:
  smoe-mt study claim
  smoe-mt study claim --jobs 8 --only '*/seed1' --dry-run
  smoe-mt study causes --gpu-jobs 6 --jobs 4 --seconds 3000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("plan", metavar="PLAN", help=f"{', '.join(known_plans())}, or a file NAME.yaml of that form")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="overrides for all trainings, such as optimization.max_update=200",
    )
    parser.add_argument("--runs", default="runs/study", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--data", default="data/study", help="folder of the data folders (default: %(default)s)")
    parser.add_argument(
        "--only", default="*", metavar="PATTERNS", help="only these items, such as '*/seed1' or 'dense/*,vanilla/*'"
    )
    stages = [*STAGES, RESULTS]
    parser.add_argument("--stages", default=",".join(stages), help="only these of %(default)s, with commas")
    parser.add_argument(
        "--jobs", type=flags.count, help="processes on the CPU (default: a core each, none beside GPU jobs)"
    )
    parser.add_argument("--gpu-jobs", type=flags.count, default=0, help="processes that share the GPUs (default: none)")
    parser.add_argument("--bind", action="store_true", help="bind each process to cores of its own")
    parser.add_argument(
        "--seconds",
        type=flags.positive_float,
        help="stop after so many, with what is trained saved; go on another time",
    )
    parser.add_argument(
        "--limit", type=flags.positive_int, help="evaluate the first LIMIT sentences of each direction only"
    )
    parser.add_argument("--page", type=flags.path, help="a Markdown page that gets the results between its markers")
    parser.add_argument(
        "--pack", type=flags.path, metavar="FOLDER", help="at the end, archives of weights and logs for another machine"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and do nothing")
