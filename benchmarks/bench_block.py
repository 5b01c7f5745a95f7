"""What a block costs beside a dense FFN that computes as much, and beside the one-hot form of dispatch.

    python -m benchmarks.bench_block --json blocks.json

Each row is measured in a process of its own (on a GPU in one process): the block, a dense FFN over as many rows as the block's experts served
(equal activated FLOPs), and a dense FFN over the tokens, in turns. Memory is measured in one more process: the growth of
the resident memory at its peak, gradients of all weights included. Training keeps freed memory as ``fairseq-train`` with
this plugin does (``--plain-allocator`` leaves the allocator as it is).

``--graphs`` times block and equal dense FFN as CUDA graphs, too, without the host; ``--scattermoe`` times ScatterMoE's layer with
torch's own gate before it, where the package is installed (it has no biases and no capacity).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from benchmarks.one_hot import one_hot_moe, one_hot_stratified
from smoe_mt.memory import keep_freed_memory
from smoe_mt.models import SMoETransformerConfig
from smoe_mt.moe import SYSTEMS, BlockPlace, ExpertBank
from smoe_mt.moe.block import outputs_only
from smoe_mt.moe.system import NUM_EXPERTS

Groups = Callable[[int], tuple[int, ...]]  # experts of a block -> those of each stratum or layer
#: What is timed: a system, and how it divides the experts. Systems with one gate go by their names.
ROWS: dict[str, tuple[str, Groups]] = {
    **{name: (name, lambda e: (e,)) for name, one in SYSTEMS.items() if one.experts_setting == NUM_EXPERTS},
    "stacking_2": ("stacking", lambda e: (e // 2, e // 2)),
    "smoe_4_12": ("stratified", lambda e: (e // 4, e - e // 4)),
    "smoe_4_4_4_4": ("stratified", lambda e: (e // 4,) * 4),
}
ONE_HOT: dict[str, Callable[[Any, Tensor], Tensor]] = {"vanilla": one_hot_moe, "smoe_4_12": one_hot_stratified}


@dataclass(frozen=True)
class Case:
    """One row: which system, over how many tokens, forward + backward or evaluation; ``args`` from the command line."""

    system: str
    tokens: int
    training: bool
    one_hot: bool
    args: argparse.Namespace

    def settings(self) -> SMoETransformerConfig:
        args = self.args
        return SMoETransformerConfig(dropout=0.0, moe_backend=args.backend, capacity_factor=args.capacity_factor)

    def place(self) -> BlockPlace:
        args = self.args
        return BlockPlace("encoder", 1, args.embed_dim, args.ffn_dim, ROWS[self.system][1](args.experts))

    def block(self) -> nn.Module:
        args = self.args
        torch.manual_seed(0)
        block = SYSTEMS[ROWS[self.system][0]].build(self.settings(), self.place())
        return block.to(args.device, measuring.DTYPES[args.dtype]).train(self.training)

    def rows(self, count: int) -> Tensor:
        dtype = measuring.DTYPES[self.args.dtype]
        return torch.randn(
            count, self.args.embed_dim, device=self.args.device, dtype=dtype, requires_grad=self.training
        )

    def dense(self) -> nn.Module:
        d, f = self.args.embed_dim, self.args.ffn_dim
        ffn = nn.Sequential(nn.Linear(d, f), nn.ReLU(), nn.Linear(f, d))
        return ffn.to(self.args.device, measuring.DTYPES[self.args.dtype])

    def run(self, compute: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Callable[[], object]:
        """A pass; in training with backward, gradients anew each time, as an optimiser's step leaves them."""

        def once() -> None:
            if not self.training:
                with torch.inference_mode(), outputs_only():  # as a search does
                    compute(x)
                return
            module.zero_grad(set_to_none=True)
            x.grad = None
            compute(x).backward(torch.ones_like(x))

        return once

    def start(self) -> None:
        torch.set_num_threads(self.args.threads)
        if self.training and self.args.device == "cpu" and not self.args.plain_allocator:
            keep_freed_memory()


def measure(case: Case) -> dict[str, Any]:
    """The row of a case, without memory."""
    case.start()
    block, x, dense = case.block(), case.rows(case.tokens), case.dense()
    served = served_rows(case, block, x)
    equal = case.rows(served)
    contenders = {
        "block": case.run(lambda x: block(x)[0], block, x),
        "equal": case.run(dense, dense, equal),
        "dense": case.run(dense, dense, x),
    }
    if case.one_hot:
        contenders["one_hot"] = case.run(lambda x: ONE_HOT[case.system](block, x), block, x)
    if case.args.graphs:
        for name in ("block", "equal"):
            contenders[f"{name} graph"] = measuring.captured(contenders[name], case.args.device)
    if case.args.scattermoe and case.system == "vanilla" and scattermoe_is_there():
        other = ScatterMoE(case).to(case.args.device, measuring.DTYPES[case.args.dtype])
        contenders["scattermoe"] = case.run(other, other, x)
    seconds = measuring.interleaved(contenders, case.args.runs, case.args.device, case.args.clock)

    def to(below: str, name: str) -> float | None:
        return measuring.ratio(seconds[name], seconds[below]) if name in seconds else None

    def milliseconds(name: str) -> float | None:
        return 1000 * statistics.median(seconds[name]) if name in seconds else None

    return {
        "system": case.system,
        "mode": "train" if case.training else "eval",
        "tokens": case.tokens,
        "rows a token": served / case.tokens,
        "block ms": milliseconds("block"),
        "equal dense ms": milliseconds("equal"),
        "ratio": to("equal", "block"),
        "graph ms": milliseconds("block graph"),
        "graph ratio": to("equal graph", "block graph"),
        "to dense FFN": to("dense", "block"),
        "one-hot to equal": to("equal", "one_hot"),
        "ScatterMoE to equal": to("equal", "scattermoe"),
    }


class ScatterMoE(nn.Module):
    """That package's layer of the same sizes after a gate as ours: softmax, top-2, renormalised."""

    def __init__(self, case: Case) -> None:
        from scattermoe.mlp import MLP

        super().__init__()
        args = case.args
        self.gate = nn.Linear(args.embed_dim, args.experts, bias=False)
        self.experts = MLP(
            input_size=args.embed_dim,
            hidden_size=args.ffn_dim,
            activation=nn.ReLU(),
            num_experts=args.experts,
            top_k=2,
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, experts = self.gate(x).float().softmax(dim=-1).topk(2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        y: Tensor = self.experts(x, weights.to(x.dtype), experts)
        return y


def scattermoe_is_there() -> bool:
    return find_spec("scattermoe") is not None


def served_rows(case: Case, block: nn.Module, x: Tensor) -> int:
    """Rows of FFNs of the full size that cost as many FLOPs as a pass: slots served, and FFNs that every token passes."""
    with torch.no_grad():
        routing = block(x)[1]
    sizes = {size for bank in block.modules() if isinstance(bank, ExpertBank) for size in bank.hidden_sizes}
    (size,) = sizes
    slots = sum(int(load.served.sum()) for load in routing.load)
    system, place = SYSTEMS[ROWS[case.system][0]], case.place()
    dense = system.dense_ffns_of(case.settings(), place, slots / x.size(0))
    return round(slots * size / case.args.ffn_dim + x.size(0) * dense)


def measure_memory(case: Case) -> dict[str, Any]:
    """Peak MiB of one pass of the block (of the one-hot form where the case asks for it) in a fresh process."""
    block, x = case.block(), case.rows(case.tokens)
    warm = case.rows(64)  # what torch sets up at its first products is not the block's
    case.run(lambda x: block(x)[0], block, warm)()
    block.zero_grad(set_to_none=True)
    case.start()
    compute = (lambda x: ONE_HOT[case.system](block, x)) if case.one_hot else (lambda x: block(x)[0])
    return {"MiB": measuring.peak_mib(case.run(compute, block, x), case.args.device)}


def cases(args: argparse.Namespace) -> list[Case]:
    found = []
    for mode in args.modes:
        training = mode == "train"
        for tokens in args.tokens if training else args.eval_tokens:
            for system in args.systems:
                one_hot = system in ONE_HOT and tokens <= args.one_hot_up_to
                found.append(Case(system, tokens, training, one_hot, args))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["vanilla", "smoe_4_12"], choices=ROWS)
    parser.add_argument("--modes", nargs="+", default=["train", "eval"], choices=["train", "eval"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 8192, 16384], help="tokens in training")
    parser.add_argument("--eval-tokens", nargs="+", type=int, default=[50, 500], help="tokens in evaluation")
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--ffn-dim", type=int, default=2048)
    parser.add_argument(
        "--experts", type=int, default=16, help="experts of a block; smoe_4_12: a quarter of them first"
    )
    parser.add_argument("--capacity-factor", type=float, default=2.0)
    parser.add_argument("--backend", default="auto", choices=["auto", "loop", "grouped", "triton"])
    parser.add_argument("--one-hot-up-to", type=int, default=1024, help="tokens up to which the one-hot form runs too")
    parser.add_argument("--graphs", action="store_true", help="time CUDA graphs of block and equal dense FFN, too")
    parser.add_argument("--scattermoe", action="store_true", help="time ScatterMoE beside vanilla, if it is installed")
    parser.add_argument(
        "--together", action="store_true", help="all rows in one process: quicker, but memory is not to be compared"
    )
    parser.add_argument("--plain-allocator", action="store_true", help="leave the C library's allocator as it is")
    measuring.add_common_arguments(parser, runs=9)
    args = parser.parse_args()
    todo = cases(args)
    # On a GPU torch counts the memory, and a new process would compile all kernels again.
    together = args.together or args.device == "cuda"
    rows = measuring.each_by_itself(measure, todo, "time", together)
    memory = [Case(case.system, case.tokens, case.training, False, args) for case in todo]
    peaks = measuring.each_by_itself(measure_memory, memory, "memory", together)
    for row, peak in zip(rows, peaks, strict=True):
        row |= peak
    measuring.show(rows, args)


if __name__ == "__main__":
    main()
