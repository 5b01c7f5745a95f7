"""Training steps of a whole model beside its dense twin: tokens/s, and what the FLOPs would allow.

    python -m benchmarks.bench_train --json train.json

A step is forward, criterion, backward, clipping, Adam and logging over one batch of random sentences without padding. "of FLOPs" is
the ratio of tokens/s to the dense twin's, divided by the inverse ratio of their FLOPs, counted over the same step: 1.0
means that the sparse model loses nothing to dispatch. "with metrics" is the time of a step to that of one whose routing is not
logged. All models are in one process and take turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from fairseq.logging import metrics
from torch import nn

from benchmarks import measuring
from benchmarks.models import add_model_arguments, count_flops, make_model, random_tokens, toy_task
from smoe_mt.criterions import stratified_routing
from smoe_mt.memory import keep_freed_memory


def make_update(
    model: nn.Module, criterion: nn.Module, rate: float = 1e-4
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What updates ``model`` on a sample, logging included, and returns what the criterion tells of it."""
    model.train()
    fused = next(model.parameters()).is_cuda
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=fused)

    def update(sample: Mapping[str, Any]) -> Mapping[str, Any]:
        optimizer.zero_grad(set_to_none=True)
        loss, size, logged = criterion(model, sample)
        (loss / size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with metrics.aggregate(new_root=True):
            criterion.reduce_metrics([logged])
        return cast(Mapping[str, Any], logged)

    return update


def without_routing_metrics(step: Callable[[], object]) -> Callable[[], object]:
    """``step``, with nothing of the routing logged."""

    def bare() -> None:
        logged = stratified_routing.routing_sums
        stratified_routing.routing_sums = lambda *_: {}
        try:
            step()
        finally:
            stratified_routing.routing_sums = logged

    return bare


def make_sample(args: argparse.Namespace, task: Any) -> dict[str, Any]:
    """A batch of ``args.tokens`` target tokens and as many of the source."""
    sentences = max(1, args.tokens // args.length)
    source, target = (random_tokens(sentences, args.length, task.source_dictionary, args.device) for _ in range(2))
    return {
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((sentences,), args.length, device=args.device),
            "prev_output_tokens": target.roll(1, dims=1),
        },
        "target": target,
        "ntokens": target.numel(),
        "direction": torch.arange(sentences, device=args.device) % len(task.directions),
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per model."""
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()
    task = toy_task(args.vocabulary)
    criterion = stratified_routing.StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1)
    sample = make_sample(args, task)
    models = {system: make_model(system, args, task) for system in ("dense", *args.systems)}
    steps = {system: partial(make_update(model, criterion), sample) for system, model in models.items()}
    flops = {system: count_flops(step) for system, step in steps.items()}
    bare = {f"{system} bare": without_routing_metrics(steps[system]) for system in args.systems}
    seconds = measuring.interleaved({**steps, **bare}, args.runs, args.device, args.clock)
    tokens = sample["ntokens"]
    return [
        {
            "system": system,
            "parameters M": sum(p.numel() for p in models[system].parameters()) / 1e6,
            "GFLOPs a step": flops[system] / 1e9,
            "FLOPs to dense": flops[system] / flops["dense"],
            "s a step": statistics.median(seconds[system]),
            "tokens/s": tokens / statistics.median(seconds[system]),
            "speed to dense": measuring.ratio(seconds["dense"], seconds[system]),
            "of FLOPs": measuring.ratio(seconds["dense"], seconds[system]) * flops[system] / flops["dense"],
            "with metrics": measuring.ratio(seconds[system], seconds.get(f"{system} bare", seconds[system])),
        }
        for system in models
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens of a batch; as many source tokens")
    parser.add_argument("--length", type=int, default=32, help="tokens of a sentence")
    measuring.add_common_arguments(parser, runs=5)
    args = parser.parse_args()
    measuring.show(measure(args), args)


if __name__ == "__main__":
    main()
