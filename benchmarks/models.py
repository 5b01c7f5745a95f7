"""Whole models to time, with random weights and sentences: no data folder is needed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import smoe_mt
from benchmarks import measuring
from smoe_mt.models import SMoETransformerConfig, SMoETransformerModel
from smoe_mt.models.standalone import dictionary_of
from smoe_mt.moe import SYSTEMS as REGISTERED
from smoe_mt.moe.kernels.available import installed, interpreted
from smoe_mt.moe.kernels.triton_block.records import Operands, Saved, results_of
from smoe_mt.moe.system import NUM_EXPERTS

SIZES = {
    "tiny": {"embed_dim": 128, "ffn_embed_dim": 512, "layers": 2, "attention_heads": 4},
    "small": {"embed_dim": 256, "ffn_embed_dim": 1024, "layers": 4, "attention_heads": 4},
    "base": {"embed_dim": 512, "ffn_embed_dim": 2048, "layers": 6, "attention_heads": 8},
    "big": {"embed_dim": 1024, "ffn_embed_dim": 4096, "layers": 6, "attention_heads": 16},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "dense": {"moe": "none"},
    **{name: {"moe": name, "num_experts": 8} for name, one in REGISTERED.items() if one.experts_setting == NUM_EXPERTS},
    "smoe_4_4": {"moe": "stratified", "strata": "4,4"},
    "smoe_2_2_2_2": {"moe": "stratified", "strata": "2,2,2,2"},
    "smoe_4_12": {"moe": "stratified", "strata": "4,12"},
}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which models, how big."""
    parser.add_argument(
        "--systems", nargs="+", default=["smoe_2_2_2_2"], choices=[name for name in SYSTEMS if name != "dense"]
    )
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--vocabulary", type=int, default=32_000, help="pieces of the joint vocabulary")
    parser.add_argument("--backend", default="auto", choices=["auto", "loop", "grouped", "triton"])


def toy_task(vocabulary: int) -> SimpleNamespace:
    """What a model and a criterion ask of a task."""
    dictionary = dictionary_of(vocabulary)
    return SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary, directions=("aa-en", "en-aa"))


def make_model(system: str, args: argparse.Namespace, task: SimpleNamespace) -> SMoETransformerModel:
    """The model of a system, random weights, on the device and in the precision asked for."""
    model = build(system, SIZES[args.size], task, moe_backend=args.backend)
    return model.to(args.device, measuring.DTYPES[args.dtype])


def build(system: str, size: Mapping[str, int], task: Any, **settings: Any) -> SMoETransformerModel:
    """The model of a system, the same random weights each time; ``size``: as those of `SIZES`."""
    smoe_mt.register()
    cfg = SMoETransformerConfig(**settings)
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in size.items()}
    for name, value in {**sizes, **SYSTEMS[system]}.items():
        setattr(cfg, name, value)
    torch.manual_seed(0)
    return SMoETransformerModel.build_model(cfg, task)


def random_tokens(sentences: int, length: int, dictionary: Dictionary, device: str) -> Tensor:
    """int64 [sentences, length], each with its end; no padding."""
    tokens = torch.randint(dictionary.nspecial, len(dictionary), (sentences, length), device=device)
    tokens[:, -1] = dictionary.eos()
    return tokens


def _addmm_flops(_sum: Any, a: Any, b: Any, **_kwargs: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _packed_flops(x: Any, *_args: Any, out_shape: Any = None, **_kwargs: Any) -> int:
    return 2 * x[0] * x[1] * out_shape[1]


def _grouped_flops(a: Tensor, b: Tensor, offs: Tensor | None = None, *_args: Any, **_kwargs: Any) -> int:
    """[S, I] with weights [E, I, O], or [O, S] with rows [S, I]: of the S rows those before the last group's end."""
    rows = int(offs[-1]) if offs is not None else a.size(-2)
    return 2 * rows * (a.size(1) if b.dim() == 3 else a.size(0)) * b.size(-1)


_grouped_flops._get_raw = True  # type: ignore[attr-defined]  # the counter's word for: tensors, not their shapes


def _block_flops(*args: Any, out_val: Any = None) -> int:
    """Of a block's Triton kernels: gates for the tokens that met them, experts for the rows that were served."""
    given = Operands(*args[: len(Operands._fields)])
    return _gates_and_experts(given.gates, given.experts, results_of(out_val, len(given.gates)).loads)


def _block_backward_flops(_grad: Any, _grad_balance: Any, *args: Any, out_val: Any = None) -> int:
    saved = Saved(*args[: len(Saved._fields)])
    return 2 * _gates_and_experts(saved.gates, saved.experts, saved.loads)


def _gates_and_experts(gates: list[Tensor], experts: list[Tensor], loads: Sequence[Tensor]) -> int:
    pairs = [(gate, load.tolist()) for gate, load in zip(gates, loads, strict=True)]
    met = sum(2 * sum(load[2]) * gate.numel() for gate, load in pairs)
    return met + sum(2 * 2 * sum(load[1]) * experts[0][0].numel() for _, load in pairs)


for _formula in (_block_flops, _block_backward_flops):
    _formula._get_raw = True  # type: ignore[attr-defined]


# Products that torch's own list lacks.
FLOPS = {
    torch.ops.aten.addmm_: _addmm_flops,
    torch.ops.mkldnn._linear_pointwise: _packed_flops,
    torch.ops.aten._grouped_mm: _grouped_flops,
}


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products in ``run``, as they were computed: real routing, real lengths."""
    kernels: dict[Any, Any] = {}
    if installed() and (torch.cuda.is_available() or interpreted()):
        from smoe_mt.moe.kernels.triton_block import operator  # noqa: F401 (registers the operators)

        own = torch.ops.smoe_mt
        kernels = {own.block: _block_flops, own.block_backward: _block_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=FLOPS | kernels) as counter:
        run()
    return counter.get_total_flops()
