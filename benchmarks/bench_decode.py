"""Beam search with a whole model beside its dense twin, through the same generator: tokens/s, and what FLOPs would allow.

    python -m benchmarks.bench_decode --json decode.json

Random weights never end a sentence by themselves, so all are as long as each other: ``--length`` tokens. tokens/s count
the output of the best hypothesis. "of FLOPs" is the ratio of tokens/s to the dense twin's, divided by the inverse ratio of
their FLOPs, counted over the same search: 1.0 means that the sparse model loses nothing to dispatch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import measuring
from benchmarks.models import add_model_arguments, count_flops, make_model, random_tokens, toy_task
from smoe_mt.generation.beam import BeamDecoder, Decoding


def make_search(model: Any, sentences: int, args: argparse.Namespace, task: Any) -> Callable[[], object]:
    """A search over ``sentences`` random sources; each output ends at ``args.length`` tokens."""
    dictionary = task.source_dictionary
    decoding = Decoding(args.beam, max_len_a=0, max_len_b=args.length, min_len=args.length)
    decoder = BeamDecoder(model.eval(), dictionary, decoding)
    sources = list(random_tokens(sentences, args.length, dictionary, "cpu"))
    return lambda: decoder(sources)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per model and number of sentences."""
    torch.set_num_threads(args.threads)
    task = toy_task(args.vocabulary)
    models = {system: make_model(system, args, task) for system in ("dense", *args.systems)}
    rows = []
    for sentences in args.sentences:
        searches = {system: make_search(model, sentences, args, task) for system, model in models.items()}
        flops = {system: count_flops(search) for system, search in searches.items()}
        seconds = measuring.interleaved(searches, args.runs, args.device)
        for system in models:
            speed = measuring.ratio(seconds["dense"], seconds[system])
            rows.append(
                {
                    "system": system,
                    "sentences": sentences,
                    "beam": args.beam,
                    "s": statistics.median(seconds[system]),
                    "tokens/s": sentences * args.length / statistics.median(seconds[system]),
                    "FLOPs to dense": flops[system] / flops["dense"],
                    "speed to dense": speed,
                    "of FLOPs": speed * flops[system] / flops["dense"],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--sentences", nargs="+", type=int, default=[1, 20, 100], help="sentences searched together")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--length", type=int, default=30, help="tokens of each source and of each output")
    measuring.add_common_arguments(parser, runs=5)
    args = parser.parse_args()
    measuring.show(measure(args), args)


if __name__ == "__main__":
    main()
