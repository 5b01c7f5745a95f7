"""A gate's way forward in five to eight launches: pack (where not all tokens are there), route, place, up and down (in turns), combine."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from smoe_mt.moe.kernels.triton_block.gate import Gate
from smoe_mt.moe.kernels.triton_block.launching import Launcher
from smoe_mt.moe.kernels.triton_block.products import DOWN, UP, Products
from smoe_mt.moe.kernels.triton_block.programs import combining, constants, gating, packing, placing
from smoe_mt.moe.kernels.triton_block.records import Operands, Passed, Results


class Walk(NamedTuple):
    """What all gates of a block write to: fields of ``Results``, and ``at`` int32 [T], the gate that each token is at."""

    y: Tensor
    later: Tensor
    normed: Tensor
    visits: Tensor
    losses: Tensor
    entropy: Tensor
    at: Tensor

    @staticmethod
    def empty(given: Operands, strata: bool) -> Walk:
        """Memory for it."""
        x, gates = given.x, len(given.gates)

        def new(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=x.device)

        return Walk(
            y=new(x.dtype if strata else given.experts[0].dtype, *x.shape),
            later=new(x.dtype, gates - 1, *x.shape),
            normed=new(x.dtype, x.size(0) if given.norms else 0, x.size(1)),
            visits=new(torch.int64, x.size(0)),
            losses=new(torch.float32, gates, 2),
            entropy=new(torch.float32, gates),
            at=new(torch.int32, x.size(0)),
        )

    def results(self, loads: list[Tensor], kept: list[Tensor]) -> Results:
        """With what the gates decided."""
        return Results(self.y, self.losses, self.entropy, self.visits, loads, self.later, self.normed, kept)


def gate_forward(gate: Gate, launch: Launcher, x: Tensor, given: Operands, walk: Walk, keep: bool) -> Passed:
    """Pass the tokens at the gate, whose rows of ``x`` [T, D] are its input; ``keep``: a backward pass follows."""
    passed = gate.empty(x, given.packs(gate.number), keep)
    if passed.packed:
        _pack(gate, launch, walk.at if gate.number else given.padding, passed)
    _route(gate, launch, x, walk, passed)
    seen = walk.normed if gate.norm else x
    rows = _experts(gate, launch, seen.to(gate.dtype), passed, keep)
    _combine(gate, launch, x, rows, given.next_gate, walk, passed)
    return passed


def _pack(gate: Gate, launch: Launcher, where: Tensor | None, passed: Passed) -> None:
    """Lists the tokens at the gate; where: as ``pack_kernel``."""
    launch(
        "pack",
        packing.pack_kernel,
        (triton.cdiv(gate.tokens, 1024),),
        where,
        passed.tokens,
        passed.count,
        gate.number,
        gate.tokens,
        BT=1024,
        BS=4096,
        num_warps=8,
    )


def _route(gate: Gate, launch: Launcher, x: Tensor, walk: Walk, passed: Passed) -> None:
    """Choices, then a row for each slot."""
    s, norm, none = gate.settings, gate.norm, passed.probs
    counts = torch.empty(gate.blocks, s.top_k, gate.width, dtype=torch.int32, device=x.device)
    sums = torch.empty(gate.blocks, gate.width + 2, dtype=torch.float32, device=x.device)
    launch(
        "route",
        gating.route_kernel,
        (gate.blocks,),
        x,
        passed.tokens,
        passed.count,
        norm.gamma if norm else none,
        norm.beta if norm else none,
        gate.weight,
        none if gate.bias is None else gate.bias,
        none if gate.order is None else gate.order,
        walk.normed,
        passed.means,
        passed.scales,
        passed.log_sums,
        passed.probs,
        passed.choices,
        counts,
        sums,
        none if gate.seeds is None else gate.seeds,
        gate.number,
        gate.tokens,
        gate.dim,
        gate.experts,
        s.epsilon,
        PACKED=passed.packed,
        NORM=norm is not None,
        BIAS=gate.bias is not None,
        ORDERED=gate.order is not None,
        Z=s.z,
        TOP_K=s.top_k,
        GUMBEL=s.gumbel,
        PRECISION="ieee",
        EVEN=gate.dim % 128 == 0,
        BT=gate.block,
        BD=128,
        BE=gate.width,
        num_warps=4 if gate.block <= 32 else 8,
    )
    limit = constants.RELEASE if s.release else constants.PAPER
    launch(
        "place",
        placing.place_kernel,
        (gate.blocks,),
        passed.tokens,
        passed.count,
        passed.choices,
        passed.probs,
        counts,
        sums,
        passed.row_of_slot,
        passed.token_of_row,
        passed.weight_of_row,
        passed.expert_of_tile,
        passed.starts,
        passed.load,
        walk.losses,
        walk.entropy,
        none if gate.seeds is None else gate.seeds,
        gate.number,
        gate.tokens,
        gate.experts,
        *s.capacity,
        s.mask,
        s.scale,
        PACKED=passed.packed,
        TOP_K=s.top_k,
        RENORMALISE=s.renormalise,
        Z=s.z,
        CAPACITY=limit.value if s.capacity_factor else constants.NO_CAPACITY.value,
        MASK=s.mask > 0,
        PAD=gate.tiles.pad,
        BB=max(32, 4096 // gate.width),
        BT=gate.block,
        BE=gate.width,
        num_warps=4,
    )


def _experts(gate: Gate, launch: Launcher, seen: Tensor, passed: Passed, keep: bool) -> Tensor:
    """The experts' weighted outputs by row, [S, D]."""
    w, device = gate.weights, seen.device
    hidden, keep_h = passed.kept, False
    if not gate.relu:
        keep_h, hidden = keep, torch.empty(gate.turn_rows, gate.hidden, dtype=gate.dtype, device=device)
    kept = passed.kept if keep_h else hidden
    rows = torch.empty(gate.rows_bound(), gate.dim, dtype=gate.dtype, device=device)
    for turn in range(gate.turns):
        products = Products(gate, passed, launch, turn)
        products.rows(UP, gate.tiles.up, seen, True, w.w_in, w.b_in, hidden, kept=kept, keep_h=keep_h)
        products.rows(DOWN, gate.tiles.down, hidden, False, w.w_out, w.b_out, rows)
    return rows


def _combine(
    gate: Gate, launch: Launcher, x: Tensor, rows: Tensor, next_gate: Tensor, walk: Walk, passed: Passed
) -> None:
    """Each token's rows summed; and where it goes."""
    s, bt, bd = gate.settings, 16, min(256, triton.next_power_of_2(gate.dim))
    launch(
        "combine",
        combining.combine_kernel,
        (triton.cdiv(gate.tokens, bt), triton.cdiv(gate.dim, bd)),
        rows,
        passed.tokens,
        passed.count,
        passed.row_of_slot,
        passed.choices,
        walk.normed if gate.residual == constants.NORMED.value else x,
        walk.y,
        walk.later,
        walk.at,
        walk.visits,
        next_gate,
        passed.probs if gate.seeds is None else gate.seeds,
        gate.number,
        gate.first,
        gate.gates,
        gate.tokens,
        gate.dim,
        1.0 - s.dropout,
        PACKED=passed.packed,
        TOP_K=s.top_k,
        RESIDUAL=gate.residual,
        STRATA=s.strata,
        OPENS=gate.number == 0,
        DROPOUT=s.dropout > 0,
        BT=bt,
        BD=bd,
        num_warps=4,
    )
