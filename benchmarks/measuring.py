"""How time and memory are measured, and what a table says of the machine."""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from smoe_mt.cuda_recorder import CudaRecorder
from smoe_mt.files import write_json

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MIB = 1 << 20


def add_common_arguments(parser: argparse.ArgumentParser, runs: int) -> None:
    """What every benchmark asks: where, in what precision, how often, where to write."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES, help="precision of weights and activations")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--runs", type=int, default=runs, help="timed runs of each contender, taken in turns")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="cpu: processor time of all threads, on a machine that others use too",
    )
    parser.add_argument("--json", type=Path, help="write the table and the machine's description here")


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """The machine, the precision and the command."""
    cuda = args.device == "cuda"
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "capability": "" if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": args.threads,
        "dtype": args.dtype,
        "runs": args.runs,
        "clock": args.clock,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def interleaved(
    contenders: Mapping[str, Callable[[], object]], runs: int, device: str, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of each run of each contender: one run of all, then the next of all, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, contender in contenders.items():
            wait_for(device)
            start = CLOCKS[clock]()
            contender()
            wait_for(device)
            if number:
                seconds[name].append(CLOCKS[clock]() - start)
    return seconds


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def captured(run: Callable[[], object], device: str) -> Callable[[], object]:
    """``run`` as a CUDA graph, so that its time is the device's alone; on a CPU, for a rehearsal, ``run`` itself.

    Nothing that ``run`` reads may be replaced afterwards: a replay writes to the same memory.
    """
    if device != "cuda":
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are compiled, libraries take their workspaces
            run()
    torch.cuda.current_stream().wait_stream(side)

    def nothing_returned() -> list[torch.Tensor]:
        run()
        return []

    return CudaRecorder().capture(nothing_returned)[1]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of one contender's time to another's: what slows a whole round cancels out."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_mib(run: Callable[[], object], device: str) -> float:
    """By how many MiB the peak of memory during ``run`` exceeds what was held before it.

    On a CPU the resident memory of the process, so call it in a process that has not held more before.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        wait_for(device)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status_kib("VmRSS")
    run()
    return (status_kib("VmHWM") - before) / 1024


def status_kib(field: str) -> int:
    """A line of this process's memory figures, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def each_by_itself(work: Callable[[Any], Any], jobs: Sequence[Any], title: str, together: bool) -> list[Any]:
    """``work`` of each job, one after the other; each in a new process, so that none inherits memory or caches, or ``together``."""
    if together:
        return [work(job) for job in tqdm(jobs, desc=title, disable=not sys.stderr.isatty())]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        return list(tqdm(pool.imap(work, jobs), total=len(jobs), desc=title, disable=not sys.stderr.isatty()))


def show(rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Print the rows as a table under the machine's description, and write them where ``--json`` says."""
    about = environment(args)
    print(" | ".join(f"{name} {value}" for name, value in about.items() if value))
    print_table(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"environment": about, "rows": list(rows)})


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns that some row fills, in the rows' order."""
    titles = list(dict.fromkeys(title for row in rows for title in row if row[title] is not None))
    cells = [[as_text(row.get(title)) for title in titles] for row in rows]
    widths = [max(len(title), *(len(line[i]) for line in cells)) for i, title in enumerate(titles)]
    for line in [titles, ["-" * width for width in widths], *cells]:
        print(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))
            )
        )


def as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"
    return "" if value is None else str(value)
