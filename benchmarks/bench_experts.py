"""Up to how many tokens it pays that all experts of a block compute all of them, as in a step of a search.

    python -m benchmarks.bench_experts --device cuda --dtype bf16 --json experts.json

Each row is a block in evaluation that is asked for its outputs alone: by ``all_experts``, and by the kernels in whose place it would
be taken. What can be is captured as a CUDA graph, as a step of a search is; ``loop`` reads back from the device and cannot. Last comes
what these times ask of the rule in ``smoe_mt/moe/kernels/all_experts.py``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import measuring
from benchmarks.bench_block import ROWS, Case
from smoe_mt.moe.kernels import all_experts
from smoe_mt.moe.kernels.all_experts import ALL_EXPERTS
from smoe_mt.moe.routers.base import least_choices, routers_of

#: Kernels in whose place it may be taken, and the rule's constant.
CONSTANTS = {"loop": "MOST_TOKENS", "triton": "MOST_TOKENS_BESIDE_TRITON"}


@contextmanager
def always(device: str) -> Iterator[None]:
    """Let blocks with ``backend="auto"`` be computed by all experts."""
    forced = {name: sys.maxsize for name in (*CONSTANTS.values(), "MOST_EXPERTS_PER_CHOICE")}
    rule = vars(all_experts)
    before = {name: rule[name] for name in ("DEVICES", *forced)}
    rule.update(forced, DEVICES=(device,))
    try:
        yield
    finally:
        rule.update(before)


def measure(system: str, experts: int, tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    """A row: microseconds of each kernel, and all experts' time to each other's."""
    backends = {ALL_EXPERTS: "auto", "loop": "loop", "grouped": "grouped"}
    if args.device == "cuda":
        backends["triton"] = "triton"
    contenders, choices = {}, 0
    for kernel, backend in backends.items():
        own = argparse.Namespace(**{**vars(args), "backend": backend, "experts": experts})
        case = Case(system, tokens, False, False, own)
        block = case.block()
        choices = least_choices(routers_of(block)[0])
        run = case.run(lambda x, block=block: block(x)[0], block, case.rows(tokens))
        contenders[kernel] = run if kernel == "loop" else measuring.captured(run, args.device)
    seconds = measuring.interleaved(contenders, args.runs, args.device, args.clock)
    return {
        "system": system,
        "experts": experts,
        "choices": choices,
        "tokens": tokens,
        **{f"{kernel} us": 1e6 * statistics.median(each) for kernel, each in seconds.items()},
        **{
            f"to {kernel}": measuring.ratio(seconds[ALL_EXPERTS], each)
            for kernel, each in seconds.items()
            if kernel != ALL_EXPERTS
        },
    }


def crossing(rows: Sequence[Mapping[str, Any]], kernel: str) -> int | None:
    """Tokens up to which all experts were no slower than ``kernel``, of those that the rule would let them have; 0: never.

    None where nothing was measured.
    """
    per_choice = all_experts.MOST_EXPERTS_PER_CHOICE
    reaching = [row for row in rows if row["experts"] <= per_choice * row["tokens"] * row["choices"]]
    known = [row for row in reaching if f"to {kernel}" in row]
    lost = [row["tokens"] for row in known if row[f"to {kernel}"] > 1]
    won = [row["tokens"] for row in known if not lost or row["tokens"] < min(lost)]
    return max(won, default=0) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["vanilla", "smoe_4_4_4_4"], choices=ROWS)
    parser.add_argument("--experts", nargs="+", type=int, default=[8, 32], help="experts of a block")
    parser.add_argument("--tokens", nargs="+", type=int, default=[5, 10, 20, 50, 100, 200, 500])
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    measuring.add_common_arguments(parser, runs=21)
    args = parser.parse_args()
    args.capacity_factor = 0.0  # evaluation drops nothing
    torch.set_num_threads(args.threads)
    with always(args.device):
        rows = [
            measure(system, experts, tokens, args)
            for system in args.systems
            for experts in args.experts
            for tokens in args.tokens
        ]
    measuring.show(rows, args)
    for kernel, constant in CONSTANTS.items():
        found = crossing(rows, kernel)
        if found is not None:
            print(f"set {constant} = {found} in {all_experts.__name__} (all experts beside {kernel}, this machine)")


if __name__ == "__main__":
    main()
