"""The loader at scale: start-up, memory and batches per second, beside what a model consumes and beside fairseq's loader.

python -m benchmarks.bench_loader --folder FOLDER --pairs 110000000

makes a synthetic data folder (see `synthetic_folder`), opens it as training does, each time in a process of its own, and
watches the anonymous memory of that process and its workers. Every file is dropped from the page cache first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.measuring import cpu_name


def main() -> None:
    """Make the folder, measure, print the table, write the JSON."""
    options = parser().parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return
    folder = options.folder
    if not (folder / "corpus.json").is_file():
        if folder.exists():
            sys.exit(f"error: {folder} is there, but is not a whole data folder: delete it or name another")
        from benchmarks.synthetic_folder import make_folder

        make_folder(folder, options.language_pairs, options.pairs, options.full)
    results = {name: row for name in chosen_parts(options) if (row := measure(name, folder))}
    report = {**setting(options), "results": results}
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.delete:
        shutil.rmtree(folder)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.bench_loader", description=__doc__)
    add = result.add_argument
    add("--folder", type=Path, required=True, help="data folder to make, or one made before")
    add("--pairs", type=int, default=1_000_000, help="sentence pairs over all language pairs (default 1,000,000)")
    add("--language-pairs", type=int, default=94, help="pair files; each serves two directions (default 94)")
    add("--full", action="store_true", help=".bin files of random tokens, about 56 bytes a pair, instead of holes")
    add("--max-tokens", type=int, default=4096, help="tokens a batch, padding included (default 4096)")
    add("--temperature", type=float, default=5.0, help="sampling temperature T (default 5)")
    add("--workers", type=int, default=1, help="loader processes (default 1; 0: in the main process)")
    add("--batches", type=int, default=4000, help="batches of the steady state to time (default 4000)")
    add(
        "--steps",
        type=int,
        default=3,
        help="training steps of the base model to time, of about 10 s; 0: none (default 3)",
    )
    add("--fairseq", action="store_true", help="also fairseq's translation_multi_simple_epoch on the same folder")
    add("--json", type=Path, help="write the results here (seconds, MiB, batches per second)")
    add("--delete", action="store_true", help="delete the folder at the end")
    add("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    add("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    return result


def chosen_parts(options: Namespace) -> list[str]:
    """What to measure."""
    return ["loader", *(["model"] if options.steps else []), *(["fairseq"] if options.fairseq else [])]


def setting(options: Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "device": f"{cpu_name()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sentence_pairs": json_count(options.folder),
        "directions": len((options.folder / "directions.txt").read_text().split()),
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "workers": options.workers,
    }


def json_count(folder: Path) -> int:
    """Sentence pairs of a data folder."""
    return sum(json.loads((folder / "corpus.json").read_text())["splits"]["train"].values())


# --- a part in a process of its own, watched ---


def measure(part: str, folder: Path) -> dict[str, Any]:
    """What the part printed, and `peak_mib`: the most anonymous memory of all its processes together; {} if it failed."""
    print(f"measuring: {part}", file=sys.stderr)
    drop_from_page_cache(folder)
    command = [sys.executable, "-m", "benchmarks.bench_loader", *sys.argv[1:], "--part", part]
    process = subprocess.Popen([*command, "--started", repr(time.time())], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(anonymous_kib(pid) for pid in family(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        print(f"{part} ended with status {process.returncode}: left out", file=sys.stderr)
        return {}
    assert process.stdout is not None
    return {**json.loads(process.stdout.read().splitlines()[-1]), "peak_mib": round(peak / 1024)}


def drop_from_page_cache(folder: Path) -> None:
    """So that a start is a cold one."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def anonymous_kib(pid: int) -> int:
    """RssAnon of a process, 0 for one that has ended. Pages that a worker shares with its parent count twice."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


# --- the parts ---


def open_task(options: Namespace) -> Any:
    """The task on the folder, training text mapped."""
    from smoe_mt.tasks.config import ManyToManyTranslationConfig
    from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask

    settings = {"data": str(options.folder), "sampling_temperature": options.temperature}
    config = ManyToManyTranslationConfig(**settings, seed=1, train_subset="train")
    task = ManyToManyTranslationTask.setup_task(config)
    task.load_dataset("train")
    return task


def open_batches(task: Any, options: Namespace) -> Any:
    """What fairseq-train asks the task for."""
    settings = {"max_tokens": options.max_tokens, "max_positions": (1024, 1024), "num_workers": options.workers}
    batches = task.get_batch_iterator(
        task.dataset("train"), **settings, data_buffer_size=10, seed=1, disable_iterator_cache=True
    )
    assert batches.first_batch  # fairseq's Trainer keeps one
    return batches


def loader(options: Namespace) -> dict[str, Any]:
    """Start-up to the first batch, the steady state, and going on in the middle of the epoch."""
    task = open_task(options)
    opened = time.time()
    batches = open_batches(task, options)
    epoch = batches.next_epoch_itr()
    next(epoch)
    first, cpu = time.time(), time.process_time()
    counts, longest = torch.zeros(len(task.directions), dtype=torch.long), 0.0
    before = first
    for batch in islice(epoch, options.batches):
        counts += torch.bincount(batch["direction"], minlength=len(counts))
        now = time.time()
        longest, before = max(longest, now - before), now
    steady = before - first
    result = {
        "open_s": opened - options.started,
        "first_batch_s": first - options.started,
        "first_batch_cpu_s": cpu,
        "batches_per_s": options.batches / steady,
        "longest_wait_s": longest,
        "sentences_per_batch": int(counts.sum()) / options.batches,
        "batches_in_epoch_estimate": len(epoch),
        "share_deviation": share_deviation(task.dataset("train"), counts),
    }
    return {**result, **resumed(task, batches, epoch, options)}


def share_deviation(dataset: Any, counts: torch.Tensor) -> float:
    """Largest difference of a direction's share of the draws seen from its p_d."""
    from smoe_mt.tasks.sampling import shares

    expected = shares([len(text) for text in dataset.texts], dataset.sampling.temperature)
    return float((counts / counts.sum() - torch.from_numpy(expected)).abs().max())


def resumed(task: Any, batches: Any, epoch: Any, options: Namespace) -> dict[str, Any]:
    """Time to the first batch from a state, and whether the next hundred are those that were left."""
    state = batches.state_dict()
    left = [batch["id"].tolist() for batch in islice(epoch, 100)]
    started = time.time()
    again = open_batches(task, options)
    again.load_state_dict(state)
    rest = again.next_epoch_itr()
    found = [next(rest)["id"].tolist()]
    first = time.time() - started
    found += [batch["id"].tolist() for batch in islice(rest, len(left) - 1)]
    return {"resume_s": first, "resumed_exactly": found == left}


def model(options: Namespace) -> dict[str, Any]:
    """Seconds of a training step of the base model: 6 + 6 layers, d 512, FFN 2048, one joint vocabulary of 32k."""
    from fairseq.models.transformer import TransformerModel, base_architecture

    task = open_task(options)
    config = Namespace(share_all_embeddings=True)
    base_architecture(config)
    network = TransformerModel.build_model(config, task).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    seconds, cpu_seconds, tokens = [], [], 0
    for batch in islice(open_batches(task, options).next_epoch_itr(), options.steps + 1):
        started, cpu_started = time.time(), time.process_time()
        optimiser.zero_grad()
        logits, _ = network(**batch["net_input"])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["target"].flatten(), ignore_index=task.special.pad, label_smoothing=0.1
        )
        loss.backward()
        optimiser.step()
        seconds.append(time.time() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        tokens += batch["ntokens"]
    # The first one also allocates.
    return {
        "step_s": mean(seconds[1:]),
        "step_cpu_s": mean(cpu_seconds[1:]),
        "target_tokens_per_batch": tokens / len(seconds),
    }


def fairseq(options: Namespace) -> dict[str, Any]:
    """Start-up to the first batch of translation_multi_simple_epoch, and its steady state."""
    from fairseq import options as fairseq_options
    from fairseq import tasks

    directions = (options.folder / "directions.txt").read_text().split()
    languages = sorted({name for direction in directions for name in direction.split("-")})
    dictionary = str(options.folder / "dict.txt")
    command = [str(options.folder), "--task", "translation_multi_simple_epoch", "--arch", "transformer"]
    command += ["--lang-pairs", ",".join(directions), "--langs", ",".join(languages), "--encoder-langtok", "tgt"]
    command += ["--source-dict", dictionary, "--target-dict", dictionary]
    command += ["--sampling-method", "temperature", "--sampling-temperature", str(options.temperature)]
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), command)
    args.max_source_positions = args.max_target_positions = 1024  # elsewhere the model sets them
    task = tasks.setup_task(args)
    task.load_dataset("train", epoch=1)
    opened = time.time()
    settings = {"max_tokens": options.max_tokens, "max_positions": (1024, 1024), "num_workers": options.workers}
    batches = task.get_batch_iterator(
        task.dataset("train"), **settings, data_buffer_size=10, seed=1, epoch=1, ignore_invalid_inputs=True
    )
    epoch = batches.next_epoch_itr()
    next(epoch)
    first, cpu = time.time(), time.process_time()
    seen = sum(1 for _ in islice(epoch, options.batches))
    return {
        "open_s": opened - options.started,
        "first_batch_s": first - options.started,
        "first_batch_cpu_s": cpu,
        "batches_per_s": seen / (time.time() - first),
    }


PARTS = {"loader": loader, "model": model, "fairseq": fairseq}


# --- the table ---


def table(report: dict[str, Any]) -> str:
    """For people."""
    results = report["results"]
    head = ", ".join(f"{key} {value}" for key, value in report.items() if key != "results")
    lines = [head, f"{'':<12}{'open s':>9}{'first batch s':>15}{'of CPU':>8}{'batches/s':>11}{'peak MiB':>10}"]
    for name, row in results.items():
        if "first_batch_s" in row:
            cells = (
                f"{row['open_s']:>9.1f}{row['first_batch_s']:>15.1f}{row['batches_per_s']:>11.1f}{row['peak_mib']:>10,}"
            )
            lines.append(f"{name:<12}{cells}")
    found = results.get("loader")
    if found is None:
        return "\n".join(lines)
    lines.append(f"longest wait {found['longest_wait_s']:.2f} s, {found['sentences_per_batch']:.0f} sentences a batch")
    lines.append(f"share of a direction off by {found['share_deviation']:.1e} at most")
    lines.append(f"resume: {found['resume_s']:.1f} s to a batch, the batches left: {found['resumed_exactly']}")
    if "model" in results:
        # CPU seconds: with others on the machine, the time on the clock would flatter the loader.
        step, cpu = results["model"]["step_s"], results["model"]["step_cpu_s"]
        times = cpu * found["batches_per_s"] / report["threads"]
        lines.append(f"base model: {step:.2f} s a step ({cpu:.2f} s of CPU); the loader is {times:.0f} x as fast")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
