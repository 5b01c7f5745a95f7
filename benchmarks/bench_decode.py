"""Beam search with a whole model beside its dense twin, through the same generator: tokens/s, and what FLOPs would allow.

    python -m benchmarks.bench_decode --json decode.json
    python -m benchmarks.bench_decode --size tiny --vocabulary 8000 --int8 --others unprepared fairseq ctranslate2 ctranslate2_int8

Random weights never end a sentence by themselves, so all are as long as each other: ``--length`` tokens. tokens/s count
the output of the best hypothesis. "of FLOPs" is the ratio of tokens/s to the dense twin's, divided by the inverse ratio of
their FLOPs, counted over the same search: 1.0 means that the sparse model loses nothing to dispatch.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import measuring
from benchmarks.models import add_model_arguments, count_flops, make_model, random_tokens, toy_task
from benchmarks.other_decoders import OTHERS, our_search, unprepared_search
from smoe_mt.memory import keep_freed_memory
from smoe_mt.search.decoder.prepared import compute_in_int8
from smoe_mt.search.steps import scorer_of


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per contender and number of sentences."""
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()
    task = toy_task(args.vocabulary)
    models = {system: make_model(system, args, task).eval() for system in ("dense", *args.systems)}
    if args.int8:
        models |= {f"{system}, int8": in_int8(model) for system, model in models.items()}
    return [row for sentences in args.sentences for row in measure_batch(models, sentences, args, task)]


def in_int8(model: Any) -> Any:
    """A copy that computes in 8-bit integers."""
    copied = copy.deepcopy(model)
    compute_in_int8(copied)
    return copied


def measure_batch(
    models: Mapping[str, Any], sentences: int, args: argparse.Namespace, task: Any
) -> list[dict[str, Any]]:
    """A row per contender for one batch."""
    sources = list(random_tokens(sentences, args.length, task.source_dictionary, "cpu"))
    searches = {system: our_search(scorer_of(model), sources, args, task) for system, model in models.items()}
    # By fairseq's decoder, for replays of captured steps cannot be counted.
    flops = {
        system: count_flops(unprepared_search(models[system], sources, args, task))
        for system in ("dense", *args.systems)
    }
    for other in args.others:
        searches[f"dense, {other}"] = OTHERS[other](models["dense"], sources, args, task)
    seconds = measuring.interleaved(searches, args.runs, args.device, args.clock)
    rows = []
    for name in searches:
        speed = measuring.ratio(seconds["dense"], seconds[name])
        row = {
            "contender": name,
            "sentences": sentences,
            "beam": args.beam,
            "s": statistics.median(seconds[name]),
            "tokens/s": sentences * args.length / statistics.median(seconds[name]),
            "speed to dense": speed,
        }
        if name in flops:
            row |= {"FLOPs to dense": flops[name] / flops["dense"], "of FLOPs": speed * flops[name] / flops["dense"]}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--sentences", nargs="+", type=int, default=[1, 20, 100], help="sentences searched together")
    parser.add_argument(
        "--others",
        nargs="+",
        default=[],
        choices=OTHERS,
        help="the dense model through these, too (unprepared: our search with fairseq's decoder)",
    )
    parser.add_argument("--int8", action="store_true", help="our models in 8-bit integers, too, on a CPU")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--length", type=int, default=30, help="tokens of each source and of each output")
    measuring.add_common_arguments(parser, runs=5)
    args = parser.parse_args()
    measuring.show(measure(args), args)


if __name__ == "__main__":
    main()
