"""Launches of the experts' products at one gate."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from smoe_mt.moe.kernels.triton_block.gate import Gate, precision
from smoe_mt.moe.kernels.triton_block.launching import ALIGNMENT, Launcher
from smoe_mt.moe.kernels.triton_block.programs import constants
from smoe_mt.moe.kernels.triton_block.programs.products import product_kernel
from smoe_mt.moe.kernels.triton_block.programs.weight_gradient import weight_gradient_kernel
from smoe_mt.moe.kernels.triton_block.records import Passed
from smoe_mt.moe.kernels.triton_block.tiles import Tile, multiprocessors

ACTIVATIONS = {"relu": constants.RELU.value, "gelu": constants.GELU.value, "silu": constants.SILU.value}
UP, DOWN = constants.UP.value, constants.DOWN.value
GRAD_HIDDEN, GRAD_INPUT = constants.GRAD_HIDDEN.value, constants.GRAD_INPUT.value
SITES = {UP: "up", DOWN: "down", GRAD_HIDDEN: "grad_hidden", GRAD_INPUT: "grad_input"}


class Products:
    """The products of one gate, of the rows of a turn; hidden layers have those rows alone."""

    def __init__(self, gate: Gate, passed: Passed, launch: Launcher, turn: int) -> None:
        self.gate, self.passed, self.launch, self.first_row = gate, passed, launch, turn * gate.turn_rows

    def rows(
        self, kind: int, tile: Tile, a: Tensor, gather: bool, b: Tensor, bias: Tensor | None, out: Tensor, **more: Any
    ) -> None:
        """Launch ``product_kernel``; more: kept, second, weight_parts, bias_parts, keep_h, again."""
        gate, p, b_nk = self.gate, self.passed, kind in (UP, DOWN)
        n, k = (b.size(1), b.size(2)) if b_nk else (b.size(2), b.size(1))
        bound = p.token_of_row.size(0)
        none = p.weight_of_row
        a_tma = tile.a_tma and not gather and aligned(a)
        b_tma = tile.b_tma and aligned(b)
        drop, again = gate.settings.expert_dropout, more.get("again", False)
        self.launch(
            SITES[kind] + "_again" * again,
            product_kernel,
            (programs(tile, gate.turn_rows // tile.rows * triton.cdiv(n, tile.columns), out.device),),
            described(a, [tile.rows, tile.depth]) if a_tma else a,
            described(b, [tile.columns, tile.depth] if b_nk else [tile.depth, tile.columns]) if b_tma else b,
            none if bias is None else bias,
            out,
            more.get("kept", out),
            more.get("second", out),
            p.token_of_row,
            p.weight_of_row,
            p.expert_of_tile,
            p.starts,
            more.get("weight_parts", none),
            more.get("bias_parts", none),
            gate.first,
            gate.experts,
            n,
            k,
            bound,
            self.first_row,
            gate.turn_rows,
            none if gate.seeds is None else gate.seeds,
            gate.number,
            1.0 - drop,
            TURNS=gate.turns > 1,
            AGAIN=again,
            KIND=kind,
            ACT=ACTIVATIONS[gate.settings.activation],
            GATHER=gather,
            B_NK=b_nk,
            KEEP_H=more.get("keep_h", False),
            DROP=kind == DOWN and drop > 0,
            A_TMA=a_tma,
            B_TMA=b_tma,
            EVEN_K=k % tile.depth == 0,
            EVEN_N=n % tile.columns == 0,
            PARTS=tile.parts,
            BIAS_BY_DOT=tile.bias_by_dot and a.dtype is not torch.float32,
            PRECISION=precision(a.dtype),
            PAD=gate.tiles.pad,
            **tile.constants,
        )

    def again(self, seen: Tensor, out: Tensor) -> None:
        """Into ``passed.kept`` as on the way forward, where a later turn has taken its place; ``out``: room for the activation."""
        w, kept = self.gate.weights, self.passed.kept
        keep_h = not self.gate.relu
        self.rows(UP, self.gate.tiles.up, seen, True, w.w_in, w.b_in, out, kept=kept, keep_h=keep_h, again=True)

    def outer(
        self,
        site: str,
        tile: Tile,
        left: Tensor,
        gather_left: bool,
        right: Tensor,
        gather_right: bool,
        out: Tensor,
        first_added: int,
    ) -> None:
        """Launch ``weight_gradient_kernel``."""
        gate, p = self.gate, self.passed
        m, n = out.size(1), out.size(2)
        left_tma = tile.a_tma and not gather_left and aligned(left)
        right_tma = tile.b_tma and not gather_right and aligned(right)
        tiles = gate.experts * triton.cdiv(m, tile.rows) * triton.cdiv(n, tile.columns)
        self.launch(
            site,
            weight_gradient_kernel,
            (programs(tile, tiles, out.device),),
            described(left, [tile.depth, tile.rows]) if left_tma else left,
            described(right, [tile.depth, tile.columns]) if right_tma else right,
            out,
            p.token_of_row,
            p.starts,
            p.load,
            gate.first,
            first_added,
            gate.experts,
            m,
            n,
            self.first_row,
            gate.turn_rows,
            TURNS=gate.turns > 1,
            GATHER_LEFT=gather_left,
            GATHER_RIGHT=gather_right,
            LEFT_TMA=left_tma,
            RIGHT_TMA=right_tma,
            EVEN_M=m % tile.rows == 0,
            EVEN_N=n % tile.columns == 0,
            PRECISION=precision(left.dtype),
            **tile.constants,
        )


def aligned(tensor: Tensor) -> bool:
    """As the tensor memory accelerator asks."""
    return tensor.data_ptr() % ALIGNMENT == 0


def described(rows: Tensor, block: list[int]) -> TensorDescriptor:
    """``rows`` as a matrix that is loaded in tiles of ``block``."""
    return TensorDescriptor.from_tensor(rows.view(-1, rows.size(-1)), block)


def programs(tile: Tile, tiles: int, device: torch.device) -> int:
    """How many programs share the tiles."""
    return min(tiles, tile.per_sm * multiprocessors(device)) if tile.per_sm else tiles
