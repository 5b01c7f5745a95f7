"""Training steps over 1, 2 and 4 ranks of this machine: time, what travels, what a rank holds.

    python -m benchmarks.bench_ranks --json ranks.json
    python -m benchmarks.bench_ranks --trace trace.json    a step with overlap, for chrome://tracing, and what it shows
    python -m benchmarks.bench_ranks --block               what the exchange costs where there is nobody to exchange with

A step is forward, criterion, backward, reduction of gradients and Adam, each rank on tokens of its own. Ranks are processes
of one thread with gloo between them; where there are more of them than cores, look at the CPU seconds. The ways take turns,
each in new processes, round after round.

    wall s          of a step, from a barrier to the end of the slowest rank
    CPU s           of a rank, gloo's threads included; mean over ranks
    to-all MiB      sent by a rank to others in exchanges (rows, words, gradients), counted; mean over ranks
    reduce MiB      sent by a rank in reductions: 2 (n - 1) / n of the counted bytes that it has reduced by n ranks
    exchange s      spent by a rank in waiting for exchanges, and reduce s in reductions; mean over ranks
    Adam s          of the optimiser's step
    held M          parameters of a rank; optimiser MiB: its state
    peak MiB        growth of a rank's memory from its start to its peak, model, gradients and optimiser included

A ping of each number of ranks gives latency and bytes/s, to predict times by (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fairseq.distributed import LegacyDistributedDataParallel
from torch import Tensor, distributed, nn
from tqdm import tqdm

from benchmarks import measuring
from benchmarks.bench_train import make_sample
from benchmarks.local_ranks import on_ranks
from benchmarks.models import add_model_arguments, count_flops, make_model, toy_task
from benchmarks.overlap import profiled
from smoe_mt.criterions.stratified_routing import StratifiedRoutingCriterion
from smoe_mt.memory import keep_freed_memory
from smoe_mt.moe import ExpertBank, StratifiedMoE
from smoe_mt.moe.distributed import all_to_all, expert_parallel, placement
from smoe_mt.moe.distributed.expert_parallel import shard
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.training.expert_parallel import ExpertDataParallel

SYSTEM = "smoe_4_12"
SMALL, LARGE = 16, 1 << 20  # floats to each rank in a ping


@dataclass(frozen=True)
class Way:
    """How a model is trained: over how many ranks, how many of which share out its experts, in how many parts."""

    ranks: int
    shared_by: int = 1
    chunks: int = 1

    def __str__(self) -> str:
        if self.ranks == 1:
            return "alone"
        name = "data parallel" if self.shared_by == 1 else f"experts over {self.shared_by}"
        return name + (f", {self.chunks} parts" if self.chunks > 1 else "")


def ways(ranks: int) -> list[Way]:
    """All of so many ranks."""
    if ranks == 1:
        return [Way(1)]
    shared = [Way(ranks, size) for size in range(2, ranks + 1) if ranks % size == 0]
    return [Way(ranks), *shared, Way(ranks, ranks, chunks=2)]


@dataclass
class Traffic:
    """What one rank sent, in bytes, and how long it waited, in seconds."""

    exchanged: int = 0
    reduced: float = 0
    exchange_s: float = 0
    reduce_s: float = 0


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts what goes through the exchange of experts and through reductions."""
    traffic, start, wait, reduce = Traffic(), all_to_all.start, all_to_all.wait, distributed.all_reduce

    def counted_start(rows: Tensor, received: Sequence[int], sent: Sequence[int], group_name: str) -> Tensor:
        others = sum(sent) - sent[distributed.get_rank() % len(sent)]
        traffic.exchanged += others * rows[:1].numel() * rows.element_size() if others else 0
        return start(rows, received, sent, group_name)

    def counted_wait(pending: Tensor) -> Tensor:
        began = time.perf_counter()
        arrived = wait(pending)
        traffic.exchange_s += time.perf_counter() - began
        return arrived

    def counted_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = reduce(tensor, *args, **kwargs)
        n = distributed.get_world_size(kwargs.get("group"))
        traffic.reduced += 2 * (n - 1) / n * tensor.numel() * tensor.element_size()
        traffic.reduce_s += time.perf_counter() - began
        return result

    with ExitStack() as patches:
        for module in (all_to_all, placement, expert_parallel):
            for name, counting in (("start", counted_start), ("wait", counted_wait)):
                if hasattr(module, name):
                    patches.enter_context(mock.patch.object(module, name, counting))
        patches.enter_context(mock.patch.object(distributed, "all_reduce", counted_reduce))
        yield traffic


class Training:
    """A model on one rank, its tokens, its optimiser."""

    def __init__(self, way: Way, rank: int, args: argparse.Namespace) -> None:
        task = toy_task(args.vocabulary)
        ranks = ExpertRanks(expert_mesh(way.shared_by, "cpu"), way.chunks) if way.shared_by > 1 else None
        task.expert_ranks = ranks
        self.criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1)
        self.model = make_model(SYSTEM, args, task).train()
        self.reduce = self._reduction(ranks, way.ranks)
        self.adam_s = 0.0
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
        torch.manual_seed(rank)
        self.sample = make_sample(args, task)

    def _reduction(self, ranks: ExpertRanks | None, size: int) -> Callable[[], object]:
        if size == 1:
            return lambda: None
        everyone = distributed.group.WORLD
        if ranks is None:
            return LegacyDistributedDataParallel(self.model, everyone).all_reduce_grads
        return ExpertDataParallel(self.model, ranks, everyone).all_reduce_grads

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss, size, _ = self.criterion(self.model, self.sample)
        (loss / size).backward()
        self.reduce()
        began = time.perf_counter()
        self.optimizer.step()
        self.adam_s = time.perf_counter() - began

    def rows_a_token(self) -> float:
        """Rows that the experts of a block compute for a token: served, not dropped; mean over blocks."""
        with torch.no_grad():
            extra = self.model(**self.sample["net_input"])[1]
        blocks = [*extra["encoder_routing"], *extra["decoder_routing"]]
        served = sum(int(load.served.sum()) for routing in blocks for load in routing.load)
        return served / len(blocks) / int(self.sample["ntokens"])

    def held(self) -> dict[str, float]:
        state = [
            v for entry in self.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor) and v.dim()
        ]
        return {
            "held M": sum(p.numel() for p in self.model.parameters()) / 1e6,
            "optimiser MiB": sum(v.numel() * v.element_size() for v in state) / measuring.MIB,
        }


def steps_of_rank(rank: int, way: Way, args: argparse.Namespace) -> list[dict[str, float]]:
    """Figures of each timed step of a rank, after one that does not count."""
    keep_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = measuring.status_kib("VmRSS")
    training = Training(way, rank, args)
    training.step()
    steps = []
    with counted() as traffic:
        for _ in range(args.steps):
            for field in fields(Traffic):
                setattr(traffic, field.name, 0)
            distributed.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            training.step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            steps.append({"wall s": wall, "CPU s": cpu, "Adam s": training.adam_s, **vars(traffic), **training.held()})
    peak = (measuring.status_kib("VmHWM") - before) / 1024
    return [{**step, "peak MiB": peak} for step in steps]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per way: medians over all rounds' steps."""
    everything = [way for ranks in args.ranks for way in ways(ranks)]
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in everything}
    for way in tqdm(everything * args.rounds, desc="ways", disable=None):
        by_rank = on_ranks(way.ranks, steps_of_rank, way, args)
        found[way] += [over_ranks(step) for step in zip(*by_rank)]
    return [row(way, steps) for way, steps in found.items()]


def over_ranks(step: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One step's figures of all ranks: the slowest's wall time, the mean of the rest."""
    means = {name: statistics.fmean(rank[name] for rank in step) for name in step[0]}
    return means | {name: max(rank[name] for rank in step) for name in ("wall s", "peak MiB")}


def row(way: Way, steps: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    middle = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    return {
        "way": str(way),
        "ranks": way.ranks,
        "wall s": middle["wall s"],
        "CPU s": middle["CPU s"],
        "to-all MiB": middle["exchanged"] / measuring.MIB,
        "reduce MiB": middle["reduced"] / measuring.MIB,
        "exchange s": middle["exchange_s"],
        "reduce s": middle["reduce_s"],
        **{name: middle[name] for name in ("Adam s", "held M", "optimiser MiB", "peak MiB")},
    }


# --- what this machine does: the constants of a prediction ---


def ping_of_rank(_rank: int) -> dict[str, float]:
    """Latency and bytes/s of exchanges, and bytes/s of reductions."""
    size, group = distributed.get_world_size(), distributed.group.WORLD
    one_each = [1] * size

    def exchange(floats: int) -> Callable[[], object]:
        rows = torch.ones(size, floats)
        return lambda: all_to_all.wait(all_to_all.start(rows, one_each, one_each, group.group_name))

    buffer = torch.ones(8 * LARGE)
    latency, large, reduction = (
        timed(exchange(SMALL), 200),
        timed(exchange(LARGE), 15),
        timed(lambda: distributed.all_reduce(buffer), 7),
    )
    return {
        "ranks": size,
        "latency us": 1e6 * latency,
        "exchange MB/s": (size - 1) * 4 * LARGE / (large - latency) / 1e6,
        "reduce MB/s": 2 * (size - 1) / size * 4 * buffer.numel() / reduction / 1e6,
    }


def timed(run: Callable[[], object], times: int) -> float:
    """Median seconds."""
    seconds = measuring.interleaved({"run": run}, times, "cpu")
    return statistics.median(seconds["run"])


def about_a_step(_rank: int, args: argparse.Namespace) -> str:
    training = Training(Way(1), 0, args)
    flops, rows = count_flops(training.step), training.rows_a_token()
    return f"a step on one rank: {flops / 1e9:.1f} GFLOPs, {rows:.3f} rows a token in a block"


# --- modes of their own ---


def traced(rank: int, way: Way, args: argparse.Namespace) -> dict[str, Any]:
    """One profiled step of the first rank; its trace is written where it has overlap."""
    keep_freed_memory()
    training = Training(way, rank, args)
    training.step()
    distributed.barrier()
    found, profile = profiled(training.step)
    if rank == 0 and way.chunks > 1:
        profile.export_chrome_trace(str(args.trace))
    return {
        "way": str(way),
        "exchanges": len(found.exchanges),
        "exchange s": found.seconds,
        "under computation": found.under_computation,
    }


def block_overhead(_rank: int, tokens: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward and backward of a block (d 512, FFN 2048, strata 4 and 12) whose experts are all here, with and without a mesh."""
    keep_freed_memory()

    def made(chunks: int) -> nn.Module:
        torch.manual_seed(0)
        block = StratifiedMoE(512, 2048, (4, 12))
        for module in block.modules():
            if isinstance(module, ExpertBank) and chunks:
                shard(module, ExpertRanks(expert_mesh(1, "cpu"), chunks))
        return block

    def passes(block: nn.Module) -> Callable[[], object]:
        def once() -> None:
            block.zero_grad(set_to_none=True)
            block(x)[0].sum().backward()

        return once

    blocks = {"no mesh": made(0), "mesh of 1": made(1), "mesh of 1, 2 parts": made(2)}
    x = torch.randn(tokens, 512, requires_grad=True)
    seconds = measuring.interleaved({name: passes(b) for name, b in blocks.items()}, args.runs, "cpu")
    return [
        {
            "block": name,
            "tokens": tokens,
            "ms": 1000 * statistics.median(seconds[name]),
            "to no mesh": measuring.ratio(seconds[name], seconds["no mesh"]),
        }
        for name in blocks
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.set_defaults(size="small", vocabulary=8000)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument(
        "--tokens", type=int, default=512, help="target tokens of a rank's batch; as many source tokens"
    )
    parser.add_argument("--length", type=int, default=32, help="tokens of a sentence")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way, one after the other")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each process")
    parser.add_argument(
        "--trace", type=Path, help="write a trace of a step with overlap here, and measure nothing else"
    )
    parser.add_argument("--block", action="store_true", help="one block beside the same one with a mesh of one rank")
    parser.add_argument("--block-tokens", nargs="+", type=int, default=[256, 4096])
    measuring.add_common_arguments(parser, runs=7)
    args = parser.parse_args()
    args.threads, args.device = 1, "cpu"
    if args.trace:
        measuring.show([on_ranks(2, traced, Way(2, 2, chunks), args)[0] for chunks in (1, 2)], args)
        return
    if args.block:
        rows = [row for tokens in args.block_tokens for row in on_ranks(1, block_overhead, tokens, args)[0]]
        measuring.show(rows, args)
        return
    print(on_ranks(1, about_a_step, args)[0])
    for ranks in args.ranks:
        if ranks > 1:
            print(
                "ping: " + ", ".join(f"{k} {measuring.as_text(v)}" for k, v in on_ranks(ranks, ping_of_rank)[0].items())
            )
    measuring.show(measure(args), args)


if __name__ == "__main__":
    main()
