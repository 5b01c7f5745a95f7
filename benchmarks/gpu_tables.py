"""The GPU's tests and all tables of its speed, in at most six minutes on one GPU; without one a rehearsal, tiny, on the CPU.

    bash benchmarks/gpu.sh [FOLDER for JSON] [--only NAME ...]

Each table is a command that is printed before it runs. On a GPU it has planned seconds, and all of them a limit: what that leaves no
time for is left out and said so. A table that fails, or lacks a number, is a line of the last table but one; the others go on. At the
end stands what was to be reached beside what was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import print_table
from smoe_mt.files import write_json

LIMIT = 360  # seconds for everything, on a GPU
REHEARSAL_LIMIT = 600  # seconds for each table of a rehearsal, on a machine that others may use too
ROOT = Path(__file__).parent.parent
#: Files with tests that are marked gpu.
GPU_TESTS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()
)
TESTS = f"pytest -q -p no:cacheprovider -m gpu {' '.join(GPU_TESTS)}"
BLOCK = "benchmarks.bench_block --one-hot-up-to 0 --graphs --scattermoe"
BLOCK_ON_GPU = f"{BLOCK} --device cuda --dtype bf16"
BLOCK_ON_CPU = f"{BLOCK} --device cpu --together --runs 1 --embed-dim 16 --ffn-dim 32"
TINY = "--device cpu --size tiny --vocabulary 200 --runs 1"
QUICKSTART = "quickstart dense, 8192 tokens"
LARGE, NARROW, TRAIN, DECODE, UPDATES = "block_1024", "block_512", "train_base", "decode_base", "updates"


@dataclass(frozen=True)
class Table:
    """A command, ``python -m`` this: on a GPU, and in a rehearsal. seconds: planned on a GPU, start and compiling included."""

    name: str
    seconds: int
    on_gpu: str
    rehearsal: str
    writes_json: bool = True


TABLES = (
    Table("tests", 75, TESTS, TESTS, writes_json=False),
    Table(
        LARGE,
        50,
        f"{BLOCK_ON_GPU} --backend triton --embed-dim 1024 --ffn-dim 4096 --experts 16 --tokens 4096 16384 --eval-tokens 500",
        f"{BLOCK_ON_CPU} --backend auto --experts 4 --tokens 24 40 --eval-tokens 5",
    ),
    Table(
        NARROW,
        35,
        f"{BLOCK_ON_GPU} --backend triton --embed-dim 512 --ffn-dim 2048 --experts 8 --systems vanilla smoe_4_4_4_4 "
        "--tokens 3250 --eval-tokens 500",
        f"{BLOCK_ON_CPU} --backend auto --experts 8 --systems vanilla smoe_4_4_4_4 --tokens 24 --eval-tokens 5",
    ),
    Table(
        TRAIN,
        45,
        "benchmarks.bench_train --device cuda --dtype bf16 --tokens 8192 --systems smoe_2_2_2_2",
        f"benchmarks.bench_train {TINY} --tokens 64 --length 8",
    ),
    Table(
        DECODE,
        45,
        "benchmarks.bench_decode --device cuda --dtype bf16 --sentences 1 100 --runs 3",
        f"benchmarks.bench_decode {TINY} --sentences 1 3 --length 4",
    ),
    Table(
        UPDATES,
        60,
        "benchmarks.bench_updates --device cuda --dtype bf16 --optimizer fused_adam --ways plain graphs --seconds 20 "
        f"--models '{QUICKSTART}'",
        "benchmarks.bench_updates --device cpu --ways plain graphs --updates 4 --log-interval 1 --models 'quickstart dense'",
    ),
    Table(
        "experts",
        25,
        "benchmarks.bench_experts --device cuda --dtype bf16 --runs 15 --tokens 5 20 50 100 250",
        "benchmarks.bench_experts --device cpu --runs 1 --embed-dim 16 --ffn-dim 32 --experts 8 --tokens 5 20",
    ),
    Table(
        "block_1024_grouped",
        20,
        f"{BLOCK_ON_GPU} --backend grouped --embed-dim 1024 --ffn-dim 4096 --experts 16 --modes train --tokens 16384",
        f"{BLOCK_ON_CPU} --backend grouped --experts 4 --modes train --tokens 24",
    ),
)


@dataclass(frozen=True)
class Goal:
    """A number to reach: a column of the row of a table whose cells are ``where``. reach: at most this; ``most``: at least."""

    title: str
    table: str
    where: Mapping[str, Any]
    column: str
    today: float
    reach: float
    most: bool = False


def _of_block(title: str, table: str, system: str, column: str, today: float, reach: float, **where: Any) -> Goal:
    return Goal(title, table, {"system": system, "mode": "train", **where}, column, today, reach)


NESTED, BASE, SENTENCES = "smoe_4_4_4_4", "smoe_2_2_2_2", "sentences"
GOALS = (
    _of_block("16,384 tokens, vanilla: ratio, graph", LARGE, "vanilla", "graph ratio", 2.15, 1.25, tokens=16384),
    _of_block("16,384 tokens, SMoE-4-12: ratio, graph", LARGE, "smoe_4_12", "graph ratio", 3.22, 1.35, tokens=16384),
    _of_block("4,096 tokens, vanilla: ratio, graph", LARGE, "vanilla", "graph ratio", 2.56, 1.5, tokens=4096),
    _of_block("4,096 tokens, SMoE-4-12: ratio, graph", LARGE, "smoe_4_12", "graph ratio", 3.99, 1.7, tokens=4096),
    _of_block("d 512, 3,250 tokens, vanilla: ratio, graph", NARROW, "vanilla", "graph ratio", 2.43, 1.6, tokens=3250),
    _of_block("d 512, 3,250 tokens, SMoE-2-2-2-2: ratio, graph", NARROW, NESTED, "graph ratio", 7.13, 2.0, tokens=3250),
    _of_block("d 512, 3,250 tokens, vanilla: ratio, eager", NARROW, "vanilla", "ratio", 5.8, 2.5, tokens=3250),
    _of_block("d 512, 3,250 tokens, SMoE-2-2-2-2: ratio, eager", NARROW, NESTED, "ratio", 18, 4, tokens=3250),
    _of_block("16,384 tokens, vanilla: MiB", LARGE, "vanilla", "MiB", 1188, 550, tokens=16384),
    _of_block("16,384 tokens, SMoE-4-12: MiB", LARGE, "smoe_4_12", "MiB", 1607, 650, tokens=16384),
    _of_block(
        "16,384 tokens, vanilla: ratio, eager; ScatterMoE 2.08", LARGE, "vanilla", "ratio", 2.69, 2.08, tokens=16384
    ),
    _of_block("evaluation, 500 tokens, vanilla: ratio, graph", LARGE, "vanilla", "graph ratio", 10, 2, mode="eval"),
    _of_block("evaluation, 500 tokens, SMoE-4-12: ratio, graph", LARGE, "smoe_4_12", "graph ratio", 17, 3, mode="eval"),
    Goal("base model, training: dense tokens/s", TRAIN, {"system": "dense"}, "tokens/s", 143e3, 400e3, True),
    Goal("base model, training: SMoE-2-2-2-2 of FLOPs", TRAIN, {"system": BASE}, "of FLOPs", 0.43, 0.8, True),
    Goal(
        "beam 5, 100 sentences: dense tokens/s",
        DECODE,
        {"contender": "dense", SENTENCES: 100},
        "tokens/s",
        12e3,
        50e3,
        True,
    ),
    Goal(
        "beam 5, 100 sentences: SMoE-2-2-2-2 of FLOPs",
        DECODE,
        {"contender": BASE, SENTENCES: 100},
        "of FLOPs",
        0.43,
        0.75,
        True,
    ),
    Goal("one sentence: dense tokens/s", DECODE, {"contender": "dense", SENTENCES: 1}, "tokens/s", 150, 1000, True),
    Goal("one sentence: SMoE-2-2-2-2 tokens/s", DECODE, {"contender": BASE, SENTENCES: 1}, "tokens/s", 48, 600, True),
    Goal(
        "quickstart's dense model: updates/s",
        UPDATES,
        {"model": QUICKSTART, "batches": "graphs"},
        "updates/s",
        3.3,
        25,
        True,
    ),
)


def run(table: Table, folder: Path, on_gpu: bool, limit: float) -> str:
    """Print the command and what it says; returns how it ended: "" or why there is no whole result."""
    path = folder / f"{table.name}.json"
    path.unlink(missing_ok=True)  # of an earlier run
    command = table.on_gpu if on_gpu else table.rehearsal
    if table.writes_json:
        command += f" --json {shlex.quote(str(path))}"
    print(f"\n{table.name}: {table.seconds} s planned\n$ python -m {command}", flush=True)
    code = ended([sys.executable, "-m", *shlex.split(command)], limit)
    if code is None:
        return f"stopped after {limit:.0f} s"
    if code:
        return f"failed with code {code}"
    return gaps(table, path) if table.writes_json else ""


def ended(command: Sequence[str], limit: float) -> int | None:
    """The exit code of a command; None where it took longer than the limit. None of the processes that it began is left."""
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def gaps(table: Table, path: Path) -> str:
    """Which numbers of a table are to be compared and lack in one of its rows; "" for none."""
    rows = rows_of(path)
    if not rows:
        return "no rows"
    columns = dict.fromkeys(goal.column for goal in GOALS if goal.table == table.name)
    empty = [column for column in columns if any(row.get(column) is None for row in rows)]
    return f"rows without {', '.join(empty)}" if empty else ""


def run_all(tables: Sequence[Table], folder: Path, on_gpu: bool) -> list[dict[str, Any]]:
    """A row for each table: how long it took, and how it ended. Seconds of a rehearsal are the processor's."""
    begun, rows = time.perf_counter(), []
    for table in tables:
        left = LIMIT - (time.perf_counter() - begun) if on_gpu else REHEARSAL_LIMIT
        start, busy = time.perf_counter(), processor_seconds()
        how = run(table, folder, on_gpu, left) if left > table.seconds / 2 else "left out: no time"
        took = time.perf_counter() - start if on_gpu else processor_seconds() - busy
        rows.append(
            {"table": table.name, "planned s": table.seconds if on_gpu else None, "s": took, "ended": how or "well"}
        )
    return rows


def processor_seconds() -> float:
    """Of all processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a table's JSON; none where there is no whole one."""
    try:
        return list(json.loads(path.read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def reached(goal: Goal, folder: Path) -> float | None:
    """The number in the folder's JSON; None where it is not there."""
    rows = rows_of(folder / f"{goal.table}.json")
    found = [row for row in rows if all(row.get(name) == value for name, value in goal.where.items())]
    return found[0].get(goal.column) if found else None


def summary(folder: Path) -> list[dict[str, Any]]:
    """The goals beside what was reached."""
    rows = []
    for goal in GOALS:
        value = reached(goal, folder)
        there = "" if value is None else "yes" if (value >= goal.reach if goal.most else value <= goal.reach) else "no"
        row = {
            "number": goal.title,
            "before": goal.today,
            "reach": ("at least " if goal.most else "at most ") + f"{goal.reach:g}",
        }
        rows.append({**row, "now": value, "reached": there})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("gpu_tables"), help="where JSON is written")
    names = [table.name for table in TABLES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these tables alone")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    chosen = [table for table in TABLES if table.name in args.only]
    if on_gpu:
        print(f"{sum(table.seconds for table in chosen)} s planned, at most {LIMIT} s")
    else:
        print("no GPU: a rehearsal on the CPU; its numbers say nothing")
    runs = run_all(chosen, args.folder, on_gpu)
    print()
    print_table(runs)
    results = summary(args.folder)
    if on_gpu:
        print()
        print_table(results)
    write_json(args.folder / "summary.json", {"tables": runs, "numbers": results})
    if any(row["ended"] != "well" for row in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
