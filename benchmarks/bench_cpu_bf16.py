"""Training on a CPU in bfloat16 (``model.cpu_bf16``) beside float32: tokens/s, and the loss after equal updates on the same batches.

    python -m benchmarks.bench_cpu_bf16 DATA_FOLDER --widths 128 256 512 --updates 100 --json bf16.json

FFNs and experts are four times as wide as the model. Both precisions are in one process, start from the same weights and take turns,
an update each. "speed" is the median over the updates of the time in float32 to that in bfloat16: above 1, bfloat16 is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import smoe_mt
from benchmarks import measuring
from benchmarks.bench_loader import open_batches, open_task
from benchmarks.bench_train import make_update
from benchmarks.models import SYSTEMS, build
from smoe_mt.criterions.stratified_routing import StratifiedRoutingCriterion
from smoe_mt.memory import keep_freed_memory

PRECISIONS = {"float32": "off", "bfloat16": "on"}
WARM_UP = 3  # updates that are not timed
LAST = 20  # the loss is the mean over so many


def compare(system: str, width: int, task: Any, batches: list[Any], rate: float) -> dict[str, Any]:
    """A row: both precisions over the same batches, in turns."""
    criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1)
    size = {"embed_dim": width, "ffn_embed_dim": 4 * width, "layers": 2, "attention_heads": 4}
    trainings = {
        name: make_update(build(system, size, task, cpu_bf16=how, moe_freq=1), criterion, rate)
        for name, how in PRECISIONS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    losses: dict[str, list[float]] = {name: [] for name in trainings}
    for batch in tqdm(batches, desc=f"{system}, d {width}", disable=None):
        for name, training in trainings.items():
            start = time.perf_counter()
            logged = training(batch)
            seconds[name].append(time.perf_counter() - start)
            losses[name].append(float(logged["nll_loss"]) / logged["ntokens"])
    timed = {name: each[WARM_UP:] for name, each in seconds.items()}
    tokens = statistics.mean(batch["ntokens"] for batch in batches[WARM_UP:])
    row: dict[str, Any] = {"system": system, "d": width}
    row |= {f"{name} tokens/s": tokens / statistics.median(each) for name, each in timed.items()}
    row["speed"] = measuring.ratio(timed["float32"], timed["bfloat16"])
    return row | {f"{name} loss": statistics.mean(each[-LAST:]) for name, each in losses.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a data folder that smoe-mt prepare made")
    parser.add_argument("--systems", nargs="+", default=["dense", "smoe_2_2_2_2"], choices=SYSTEMS)
    parser.add_argument("--widths", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a batch")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate, without a schedule")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="write the table and the machine's description here")
    args = parser.parse_args()
    args.device, args.dtype, args.clock, args.runs = "cpu", "fp32 and bf16", "wall", args.updates - WARM_UP
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    smoe_mt.register()
    args.temperature, args.workers = 1.0, 0
    task = open_task(args)
    batches = list(islice(open_batches(task, args).next_epoch_itr(), args.updates))
    rows = [compare(system, width, task, batches, args.rate) for width in args.widths for system in args.systems]
    measuring.show(rows, args)


if __name__ == "__main__":
    main()
