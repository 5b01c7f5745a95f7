"""What the analysis adds to a forward pass: the same teacher-forced batch of a trained model, read and read with counting.

    python -m benchmarks.bench_analysis RUN --data DATA --json analysis.json

Counting is all that ``smoe-mt analyse`` does at a batch: visits, load, entropy, means of tokens, sentences to show. Token
frequencies, tables and figures come once a direction or once in all, and are not in it.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import measuring
from smoe_mt.analysis.capacity import strata_of
from smoe_mt.analysis.entropy import GateEntropy
from smoe_mt.analysis.forced import ForcedBatch, direction_texts, forced_batches
from smoe_mt.analysis.frequency import FrequencyRanks
from smoe_mt.analysis.load import ExpertLoad
from smoe_mt.analysis.sentences import ShownSentences
from smoe_mt.analysis.tokens import TokenCapacity
from smoe_mt.analysis.visits import VisitCounts, routings_of
from smoe_mt.evaluation.selection import choose_directions
from smoe_mt.generation import LoadedModel, load_model
from smoe_mt.moe.names import blocks_of


def passes(loaded: LoadedModel, split: str, direction: str, batch: ForcedBatch) -> dict[str, Callable[[], object]]:
    """The batch read, and read with counting."""
    model, blocks, strata = loaded.model, blocks_of(loaded.model), strata_of(loaded)
    dictionary = loaded.task.dictionary
    counters = VisitCounts(blocks, len(strata)), ExpertLoad(blocks, strata), GateEntropy(blocks)
    tokens = TokenCapacity(blocks, dictionary, FrequencyRanks(loaded.task, split), io.StringIO())
    watchers = tokens, ShownSentences(blocks, dictionary)

    @torch.no_grad()
    def forward() -> tuple[Any, ...]:
        return routings_of(model(**batch.net_input)[1])

    @torch.no_grad()
    def counting() -> None:
        routings = forward()
        for counter in counters:
            counter.add(direction, routings)
        for watcher in watchers:
            watcher.add(direction, batch, routings)

    return {"forward": forward, "with counting": counting}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per batch size."""
    torch.set_num_threads(args.threads)
    loaded = load_model(args.run, args.data, args.device)
    loaded.model.to(measuring.DTYPES[args.dtype])
    direction, *_ = choose_directions(loaded.task, args.split, None)
    (text,) = direction_texts(loaded.task, args.split, (direction,))
    rows = []
    for tokens in args.tokens:
        batches = list(forced_batches(loaded.task, loaded.model, text, None, tokens))
        batch = batches[len(batches) // 2]
        seconds = measuring.interleaved(
            passes(loaded, args.split, direction, batch), args.runs, args.device, args.clock
        )
        rows.append(
            {
                "max tokens": tokens,
                "sentences": len(batch.lines),
                "forward ms": 1000 * statistics.median(seconds["forward"]),
                "with counting ms": 1000 * statistics.median(seconds["with counting"]),
                "added": measuring.ratio(seconds["with counting"], seconds["forward"]) - 1,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint with experts")
    parser.add_argument("--data", help="data folder, where it is not where it was in training")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096], help="most tokens of a side in a batch")
    measuring.add_common_arguments(parser, runs=31)
    args = parser.parse_args()
    measuring.show(measure(args), args)


if __name__ == "__main__":
    main()
