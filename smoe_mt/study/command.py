"""``smoe-mt study``: systems x seeds, trained side by side, evaluated, compared."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from smoe_mt.allowed import flags
from smoe_mt.errors import UserError
from smoe_mt.processes import available_cores
from smoe_mt.study.jobs import Job, Pool, slots_of
from smoe_mt.study.pack import pack
from smoe_mt.study.plan import Item, Plan, known_plans, read_plan
from smoe_mt.study.stages import STAGES, Setup, chain_of, prepare_job

RESULTS = "results"  # the last stage, which needs no process of its own
EVERY = 30.0  # seconds between two lines of progress, where they are not drawn over each other
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


def run(args: argparse.Namespace) -> None:
    """Do what is not done yet. Raises UserError where something failed."""
    plan = read_plan(args.plan)
    setup = Setup(Path(args.runs), Path(args.data), tuple(args.overrides), args.limit)
    stages = args.stages.split(",")
    if unknown := {*stages} - {*STAGES, RESULTS}:
        raise UserError(f"--stages: there is no stage {min(unknown)!r}, only {', '.join((*STAGES, RESULTS))}")
    patterns = args.only.split(",")
    items = [one for one in plan.items if any(fnmatch.fnmatch(one.name, pattern) for pattern in patterns)]
    if not items:
        raise UserError(f"--only {args.only}: no item of {plan.name} is called so; --dry-run lists them")
    chains = [chain_of(plan, item, setup, [stage for stage in STAGES if stage in stages]) for item in items]
    if args.dry_run:
        print("\n".join(_state(item, chain) for item, chain in zip(items, chains)))
        return
    slots = slots_of(
        args.jobs if args.jobs is not None else (0 if args.gpu_jobs else available_cores()), args.gpu_jobs, args.bind
    )
    pool = Pool(slots, args.seconds)
    pool.run([[prepare_job(plan, setup)]], lambda jobs: None)
    if not pool.failures and not pool.interrupted:
        pool.run(chains, Progress([job for chain in chains for job in chain]))
    if args.pack:
        for path in pack(items, setup.runs, Path(args.pack)):
            print(path)
    _report(pool, chains)
    if RESULTS in stages and not pool.interrupted:
        _results(plan, items, setup, args.page)


def _state(item: Item, chain: Sequence[Job]) -> str:
    stages = ", ".join(f"{job.kind}: {'done' if job.done() else 'to do'}" for job in chain)
    return f"{item.study}/{item.name}  {stages}  {' '.join(item.overrides)}"


class Progress:
    """One line: how far each stage is, in all; drawn over itself at a terminal."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.start = time.monotonic()
        self.said = 0.0
        self.here = sys.stderr.isatty()

    def __call__(self, running: Sequence[Job]) -> None:
        now = time.monotonic()
        if now - self.said < (1.0 if self.here else EVERY):
            return
        self.said = now
        parts = []
        for kind in dict.fromkeys(job.kind for job in self.jobs):
            mine = [job for job in self.jobs if job.kind == kind]
            done = [job for job in mine if job.done()]
            share = f"{len(done)} of {len(mine)}"
            total = sum(job.updates for job in mine)
            if total:
                made = sum(job.updates if job in done else min(job.made(), job.updates) for job in mine)
                share += f" ({made / total:.0%} of the updates)"
            parts.append(f"{kind} {share}")
        line = f"{', '.join(parts)}; {len(running)} running, {(now - self.start) / 60:.0f} min"
        print(f"\r{line}\033[K" if self.here else line, end="" if self.here else "\n", file=sys.stderr, flush=True)


def _report(pool: Pool, chains: Sequence[Sequence[Job]]) -> None:
    left = sum(not job.done() for chain in chains for job in chain)
    if pool.interrupted:
        print(f"\nstopped with {left} jobs left; the same command goes on", file=sys.stderr)
    if pool.failures:
        for one in pool.failures:
            print(
                f"failed: {one.job.kind} {one.job.item} (exit {one.code}): {one.said}; see {one.job.log}",
                file=sys.stderr,
            )
        raise UserError(
            f"{len(pool.failures)} of the study's jobs failed, as the lines above say; the same command tries again"
        )


def _results(plan: Plan, items: Sequence[Item], setup: Setup, page: str | None) -> None:
    from smoe_mt.study.results import write_results

    for path in write_results(plan, items, setup, page):
        print(path)
