"""One gate of a block as its launches see it: sizes, settings, tiles, and the memory for what it decides."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise

import torch
import triton
from torch import Tensor

from smoe_mt.moe.kernels.triton_block import tiles
from smoe_mt.moe.kernels.triton_block.launching import Launcher
from smoe_mt.moe.kernels.triton_block.programs import constants
from smoe_mt.moe.kernels.triton_block.records import Experts, Operands, Passed
from smoe_mt.moe.kernels.triton_block.settings import Settings
from smoe_mt.moe.strata import expected_arrivals


class Gate:
    """One gate of a block.

    number, gates    which one of how many
    first, experts   the experts that it sees: the first one's number, how many
    tokens, dim      of the whole input, whose type is ``input``
    hidden           hidden units of an expert, F
    width            entries of a row of probabilities in a program
    block, blocks    tokens of a program that routes, and how many such programs there are
    bias, order      what is added to its logits, and to its probabilities for the choice alone; or None
    turns            in how many turns its rows pass the hidden layer, which has room for ``turn_rows``
    residual         NO_RESIDUAL, INPUT or NORMED
    """

    def __init__(self, number: int, given: Operands, settings: Settings) -> None:
        self.number, self.gates, self.settings, self.seeds = number, len(given.gates), settings, given.seeds
        self.weight, self.weights, self.norm = given.gates[number], Experts(*given.experts), given.norm_of(number)
        self.bias = given.gate_biases[number] if given.gate_biases else None
        self.order = given.orders[number] if given.orders else None
        self.first, self.experts = settings.first_experts[number], self.weight.size(0)
        (self.tokens, self.dim), self.input = given.x.shape, given.x.dtype
        self.hidden = self.weights.w_in.size(1)
        self.width = max(16, triton.next_power_of_2(self.experts))
        rows, device = self.tokens * settings.top_k, given.x.device
        strata = [b - a for a, b in pairwise((*settings.first_experts, self.weights.w_in.size(0)))]
        share = expected_arrivals(strata)[number] if settings.strata else 1.0
        # How many tokens meet a later gate is not known here; half of them is much.
        likely = rows if number == 0 else rows // 2
        self.tiles = tiles.choose_tiles(rows // self.experts, likely, self.dim, self.hidden, self.dtype, device)
        bound, pad = self.rows_bound(), self.tiles.pad
        turns = tiles.hidden_turns(bound * self.hidden * self.dtype.itemsize, share)
        self.turn_rows = triton.cdiv(bound // pad, turns) * pad
        self.turns = triton.cdiv(bound, self.turn_rows)
        self.block = next((size for size in (16, 32, 64) if self.tokens <= 512 * size), 128)
        self.blocks = triton.cdiv(self.tokens, self.block)
        self.residual = constants.NO_RESIDUAL.value
        if settings.strata:
            self.residual = (constants.NORMED if settings.release and number else constants.INPUT).value
        self.relu = settings.activation == "relu"

    @property
    def dtype(self) -> torch.dtype:
        """What the experts compute in."""
        return self.weights.w_in.dtype

    def launcher(self, tensors: list[Tensor], *kinds: Hashable) -> Launcher:
        """Launches the gate's kernels; tensors: those that the block did not allocate; kinds: what else they are compiled for."""
        small = tiles.norm_goes_along(self.tokens, self.dim, self.width), self.tokens <= 16384
        sizes = (self.number, self.experts, self.dim, self.hidden, self.block, self.turns, *small, id(self.tiles))
        weights = (self.weight, self.bias, self.order, self.norm and self.norm.gamma)
        types = (self.input, self.dtype, precision(self.dtype), *(one is not None and one.dtype for one in weights))
        return Launcher((self.settings, sizes, types, kinds), self.weight.device, tensors)

    def rows_bound(self) -> int:
        """The most rows that the tokens can ask of the gate, each expert's padded."""
        pad = self.tiles.pad
        return (self.tokens * self.settings.top_k // pad + self.experts) * pad

    def empty(self, like: Tensor, packed: bool, keep: bool) -> Passed:
        """Memory for what the gate decides; packed: not all tokens are there; keep: a backward pass follows."""
        t, e, k = self.tokens, self.experts, self.settings.top_k
        rows, normalised = self.rows_bound(), t if self.norm else 0
        hidden = self.turn_rows if self.relu or keep else 0

        def new(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=like.device)

        return Passed(
            tokens=new(torch.int32, t if packed else 0),
            count=new(torch.int32, 1),
            means=new(torch.float32, normalised),
            scales=new(torch.float32, normalised),
            log_sums=new(torch.float32, t if self.settings.z else 0),
            probs=new(torch.float32, t, e),
            choices=new(torch.int32, k, t),
            row_of_slot=new(torch.int32, k, t),
            token_of_row=new(torch.int32, rows),
            weight_of_row=new(torch.float32, rows),
            expert_of_tile=new(torch.int32, rows // self.tiles.pad),
            starts=new(torch.int32, e + 1),
            load=new(torch.int64, 3, e),
            kept=new(self.dtype, hidden, self.hidden),
        )


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: as torch is set; of 16 bits always on tensor cores."""
    return "tf32" if dtype is not torch.float32 or torch.backends.cuda.matmul.allow_tf32 else "ieee"
