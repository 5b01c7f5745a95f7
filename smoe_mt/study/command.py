"""``smoe-mt study``: systems x seeds, trained side by side, evaluated, compared."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.processes import available_cores
from smoe_mt.study.arguments import RESULTS, STAGES
from smoe_mt.study.jobs import Job, Pool, slots_of
from smoe_mt.study.pack import pack
from smoe_mt.study.plan import LOSS, Item, Plan, read_plan
from smoe_mt.study.stages import Setup, chain_of, prepare_job

EVERY = 30.0  # seconds between two lines of progress, where they are not drawn over each other


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
        show = Progress([job for chain in chains for job in chain])
        for made in (False, True):  # what is made of other runs comes after them
            if not pool.interrupted:
                pool.run([chain for item, chain in zip(items, chains) if (item.made is not None) is made], show)
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
    from smoe_mt.study.losses import write_losses
    from smoe_mt.study.results import write_results

    write = write_losses if plan.measure == LOSS else write_results
    for path in write(plan, items, setup, page):
        print(path)
