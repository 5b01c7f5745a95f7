"""``smoe-mt study``: systems x seeds, trained side by side, evaluated, compared."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.processes import available_cores
from smoe_mt.study.arguments import RESULTS, STAGES
from smoe_mt.study.jobs import Job, Pool, slots_of
from smoe_mt.study.pack import pack
from smoe_mt.study.plan import LOSS, Item, Plan, read_plan
from smoe_mt.study.stages import Setup, chain_of, is_trained, prepare_job
from smoe_mt.terminal_lines import TerminalLines, can_draw
from smoe_mt.training.console import with_bar

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
    without: dict[Item, str] = {}
    pool.run([[prepare_job(plan, setup)]], lambda jobs: None)
    if not pool.failures and not pool.interrupted:
        show = Progress([job for chain in chains for job in chain])
        both = [*zip(items, chains, strict=True)]
        pool.run([chain for item, chain in both if item.made is None], show)
        if not pool.interrupted:  # what is made of other runs comes after them
            rest = [(item, chain) for item, chain in both if item.made is not None]
            without = without_source(plan, rest, setup)
            pool.run([chain for item, chain in rest if item not in without], show)
        show.leave()
    if args.pack:
        for path in pack(items, setup.runs, Path(args.pack)):
            print(path)
    _report(pool, chains, without)
    if RESULTS in stages and not pool.interrupted:
        _results(plan, items, setup, args.page)


def without_source(plan: Plan, chains: Sequence[tuple[Item, Sequence[Job]]], setup: Setup) -> dict[Item, str]:
    """Of items that are made of other runs and have something left to do: those whose source is not trained, by its name."""
    sources = {item: plan.source_of(item) for item, chain in chains if not all(job.done() for job in chain)}
    return {item: source.name for item, source in sources.items() if not is_trained(source, setup)}


def _state(item: Item, chain: Sequence[Job]) -> str:
    stages = ", ".join(f"{job.kind}: {'done' if job.done() else 'to do'}" for job in chain)
    return f"{item.study}/{item.name}  {stages}  {' '.join(item.overrides)}"


class Progress:
    """One line: how far each stage is, in all. At a terminal it is drawn over itself, with a line for each running job above it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.start = time.monotonic()
        self.said = 0.0
        self.terminal = TerminalLines(sys.stderr) if can_draw(sys.stderr) else None

    def __call__(self, running: Sequence[Job]) -> None:
        now = time.monotonic()
        if now - self.said < (1.0 if self.terminal else EVERY):
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
        if self.terminal is None:
            print(line, file=sys.stderr, flush=True)
            return
        width = max((len(job.item) for job in running), default=0)
        self.terminal.draw([*(f"{job.item.ljust(width)}  {_of_job(job)}" for job in running), line])

    def leave(self) -> None:
        """What is printed next begins on a line of its own."""
        if self.terminal is not None:
            self.terminal.leave()


def _of_job(job: Job) -> str:
    return with_bar(job.progress()) if job.updates else job.kind


def _report(pool: Pool, chains: Sequence[Sequence[Job]], without: Mapping[Item, str]) -> None:
    left = sum(not job.done() for chain in chains for job in chain)
    if pool.interrupted:
        print(f"\nstopped with {left} jobs left; the same command goes on", file=sys.stderr)
    if pool.failures:
        for one in pool.failures:
            print(
                f"failed: {one.job.kind} {one.job.item} (exit {one.code}): {one.said}; see {one.job.log}",
                file=sys.stderr,
            )
    for item, source in without.items():
        print(f"not started: {item.name} is made of {source}, which is not trained", file=sys.stderr)
    if pool.failures:
        raise UserError(
            f"{len(pool.failures)} of the study's jobs failed, as the lines above say; the same command tries again"
        )
    if without:
        raise UserError(
            f"{len(without)} of the study's runs are made of runs that are not trained, as the lines above say: let --only and "
            "--stages name their trainings, too"
        )


def _results(plan: Plan, items: Sequence[Item], setup: Setup, page: str | None) -> None:
    from smoe_mt.study.losses import write_losses
    from smoe_mt.study.results import write_results

    write = write_losses if plan.measure == LOSS else write_results
    for path in write(plan, items, setup, page):
        print(path)
