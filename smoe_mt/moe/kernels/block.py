"""A whole block as one operator: all its gates forward, all its gates backward, nothing read back from the device.

A gate is five launches forward (route, place, up, down, combine) and seven or eight backward. Kept for the way back are the inputs
of the gates, what they decided, and one [S, F] activation each; no row is gathered in memory.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from smoe_mt.moe.kernels import products, routing
from smoe_mt.moe.kernels.launching import ALIGNMENT, Launcher
from smoe_mt.moe.kernels.tiles import Tile, Tiles, choose_tiles, multiprocessors, norm_goes_along

ACTIVATIONS = {"relu": 0, "gelu": 1, "silu": 2}
UP, DOWN, GRAD_HIDDEN, GRAD_INPUT = range(4)
SITES = ("up", "down", "grad_hidden", "grad_input")
EVERYWHERE, UNPADDED, AT_GATE = range(3)
NO_RESIDUAL, INPUT, NORMED = range(3)
SEEDS = 4  # of each gate; see routing.py for their uses


@dataclass(frozen=True)
class Settings:
    """What a block does besides its tensors.

    first_experts    number of the first expert that each gate sees
    strata           tokens go from gate to gate, with norm and residual; else there is one gate and y replaces x
    capacity_factor  0: no limit
    release          the released code's capacity, and its residual from the second gate on
    expert_dropout   on each row of the experts' outputs
    mask             probability of leaving out a slot; ``scale`` multiplies all weights
    """

    first_experts: tuple[int, ...]
    top_k: int
    strata: bool
    capacity_factor: float
    release: bool
    activation: str
    gumbel: bool = False
    dropout: float = 0.0
    expert_dropout: float = 0.0
    mask: float = 0.0
    scale: float = 1.0
    epsilon: float = 1e-5

    @property
    def capacity(self) -> tuple[int, int]:
        """The capacity factor as a fraction."""
        fraction = Fraction(self.capacity_factor).limit_denominator(10000)
        return fraction.numerator, fraction.denominator

    def text(self) -> str:
        """As operators take it."""
        return json.dumps(asdict(self))

    @staticmethod
    @cache
    def of(text: str) -> Settings:
        """The inverse of ``text``."""
        values = json.loads(text)
        return Settings(**values | {"first_experts": tuple(values["first_experts"])})


class Experts(NamedTuple):
    """The experts' weights: [E, F, D], [E, F], [E, D, F], [E, D]."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor


class Norm(NamedTuple):
    """A layer norm's weights, [D] each."""

    gamma: Tensor
    beta: Tensor


class Passed(NamedTuple):
    """What a gate decided and kept.

    normed [T, D] (empty without norm), means and scales fp32 [T]
    probs fp32 [T, E], choices int32 [K, T] (-1: not here), row_of_slot int32 [K, T] (-1: not served)
    token_of_row int32 [S] (-1: padding), weight_of_row fp32 [S], expert_of_tile int32 [tiles], starts int32 [E + 1]
    load int64 [3, E]: asked, served, first choices
    kept [S, F]: the weighted activation, or what comes before the activation where its slope asks for that
    """

    normed: Tensor
    means: Tensor
    scales: Tensor
    probs: Tensor
    choices: Tensor
    row_of_slot: Tensor
    token_of_row: Tensor
    weight_of_row: Tensor
    expert_of_tile: Tensor
    starts: Tensor
    load: Tensor
    kept: Tensor


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are computed: as torch is set; of 16 bits always on tensor cores."""
    return "tf32" if dtype is not torch.float32 or torch.backends.cuda.matmul.allow_tf32 else "ieee"


def rows_bound(tokens: int, experts: int, settings: Settings, pad: int) -> int:
    """The most rows that ``tokens`` can ask of a gate, each expert's padded."""
    return (tokens * settings.top_k // pad + experts) * pad


def described(rows: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(rows.view(-1, rows.size(-1)), block)


def programs(tile: Tile, tiles: int, device: torch.device) -> int:
    return min(tiles, tile.per_sm * multiprocessors(device)) if tile.per_sm else tiles


class Products:
    """The products of one gate."""

    def __init__(
        self,
        passed: Passed,
        experts: Experts,
        first: int,
        settings: Settings,
        tiles: Tiles,
        seeds: Tensor | None,
        number: int,
        launch: Launcher,
    ):
        self.launch = launch
        self.passed, self.experts, self.first, self.settings, self.tiles = passed, experts, first, settings, tiles
        self.seeds, self.number = seeds, number
        self.visible = passed.load.size(1)
        self.act = ACTIVATIONS[settings.activation]

    def rows(
        self, kind: int, tile: Tile, a: Tensor, gather: bool, b: Tensor, bias: Tensor | None, out: Tensor, **more: Any
    ) -> None:
        """Launch ``product_kernel``; more: kept, second, weight_parts, bias_parts, keep_h."""
        p, b_nk = self.passed, kind in (UP, DOWN)
        n, k = (b.size(1), b.size(2)) if b_nk else (b.size(2), b.size(1))
        bound = p.token_of_row.size(0)
        none = p.weight_of_row
        a_tma = tile.a_tma and not gather and a.data_ptr() % ALIGNMENT == 0
        b_tma = tile.b_tma and b.data_ptr() % ALIGNMENT == 0
        drop = kind == DOWN and self.settings.expert_dropout > 0
        grid = programs(tile, bound // tile.rows * triton.cdiv(n, tile.columns), out.device)
        self.launch(
            SITES[kind],
            products.product_kernel,
            (grid,),
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
            self.first,
            self.visible,
            n,
            k,
            bound,
            none if self.seeds is None else self.seeds,
            self.number,
            1.0 - self.settings.expert_dropout,
            KIND=kind,
            ACT=self.act,
            GATHER=gather,
            B_NK=b_nk,
            KEEP_H=more.get("keep_h", False),
            DROP=drop,
            A_TMA=a_tma,
            B_TMA=b_tma,
            EVEN_K=k % tile.depth == 0,
            EVEN_N=n % tile.columns == 0,
            PARTS=tile.parts,
            BIAS_BY_DOT=tile.bias_by_dot and a.dtype is not torch.float32,
            PRECISION=precision(a.dtype),
            PAD=self.tiles.pad,
            BM=tile.rows,
            BN=tile.columns,
            BK=tile.depth,
            GROUP=tile.group,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )

    def outer(
        self,
        tile: Tile,
        left: Tensor,
        gather_left: bool,
        right: Tensor,
        gather_right: bool,
        out: Tensor,
        first_added: int,
        site: str,
    ) -> None:
        """Launch ``weight_gradient_kernel``."""
        p = self.passed
        m, n = out.size(1), out.size(2)
        left_tma = tile.a_tma and not gather_left and left.data_ptr() % ALIGNMENT == 0
        right_tma = tile.b_tma and not gather_right and right.data_ptr() % ALIGNMENT == 0
        tiles = self.visible * triton.cdiv(m, tile.rows) * triton.cdiv(n, tile.columns)
        self.launch(
            site,
            products.weight_gradient_kernel,
            (programs(tile, tiles, out.device),),
            described(left, [tile.depth, tile.rows]) if left_tma else left,
            described(right, [tile.depth, tile.columns]) if right_tma else right,
            out,
            p.token_of_row,
            p.starts,
            p.load,
            self.first,
            first_added,
            self.visible,
            m,
            n,
            GATHER_LEFT=gather_left,
            GATHER_RIGHT=gather_right,
            LEFT_TMA=left_tma,
            RIGHT_TMA=right_tma,
            EVEN_M=m % tile.rows == 0,
            EVEN_N=n % tile.columns == 0,
            PRECISION=precision(left.dtype),
            BM=tile.rows,
            BN=tile.columns,
            BK=tile.depth,
            GROUP=tile.group,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


class Gate:
    """One gate of a block: sizes, settings and tiles of its kernels.

    number, gates   which one of how many
    first, experts  the experts that it sees
    """

    def __init__(
        self,
        number: int,
        x: Tensor,
        gates: list[Tensor],
        experts: Experts,
        settings: Settings,
        seeds: Tensor | None,
    ):
        self.number, self.gates, self.settings, self.seeds = number, len(gates), settings, seeds
        self.weight, self.weights, self.first = gates[number], experts, settings.first_experts[number]
        self.experts, self.tokens, self.dim = gates[number].size(0), x.size(0), x.size(1)
        self.hidden = experts.w_in.size(1)
        self.width = max(16, triton.next_power_of_2(self.experts))
        rows, dtype = self.tokens * settings.top_k, experts.w_in.dtype
        # How many tokens meet a later gate is not known here; half of them is much.
        likely = rows if number == 0 else rows // 2
        self.tiles = choose_tiles(rows // self.experts, likely, self.dim, self.hidden, dtype, x.device)
        self.block = next((size for size in (16, 32, 64) if self.tokens <= 512 * size), 128)
        self.blocks = triton.cdiv(self.tokens, self.block)
        self.opens = number == 0
        self.residual = NO_RESIDUAL
        if settings.strata:
            self.residual = NORMED if settings.release and number else INPUT
        self.relu = settings.activation == "relu"

    def starting(self, x: Tensor, given: Sequence[Tensor], *kinds: Hashable) -> Gate:
        """Ready to launch. given: all tensors that the caller gave; kinds: what else kernels are compiled for."""
        dtype = self.weights.w_in.dtype
        small = norm_goes_along(self.tokens, self.dim, self.width), self.tokens <= 16384
        sizes = (self.number, self.experts, self.dim, self.hidden, self.block, *small, id(self.tiles))
        types = (x.dtype, self.weight.dtype, dtype, precision(dtype))
        self.launch = Launcher((self.settings, sizes, types, kinds), x.device, given)
        return self

    def where(self, padding: Tensor | None) -> int:
        """Who is here."""
        return AT_GATE if self.number else EVERYWHERE if padding is None else UNPADDED

    def empty(self, like: Tensor, keep: bool, norm: bool) -> Passed:
        """Memory for what the gate decides."""
        t, d, e, k = self.tokens, self.dim, self.experts, self.settings.top_k
        rows = rows_bound(t, e, self.settings, self.tiles.pad)

        def new(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=like.device)

        return Passed(
            normed=new(like.dtype, t if norm else 0, d),
            means=new(torch.float32, t if norm else 0),
            scales=new(torch.float32, t if norm else 0),
            probs=new(torch.float32, t, e),
            choices=new(torch.int32, k, t),
            row_of_slot=new(torch.int32, k, t),
            token_of_row=new(torch.int32, rows),
            weight_of_row=new(torch.float32, rows),
            expert_of_tile=new(torch.int32, rows // self.tiles.pad),
            starts=new(torch.int32, e + 1),
            load=new(torch.int64, 3, e),
            kept=new(self.weights.w_in.dtype, rows if self.relu or keep else 0, self.hidden),
        )

    def forward(
        self, x: Tensor, padding: Tensor | None, at: Tensor, norm: Norm | None, walk: Any, keep: bool
    ) -> Passed:
        """Route, place, up, down, combine; ``walk`` has y, later, visits, next_gate, balance, entropy."""
        s, passed = self.settings, self.empty(x, keep, norm is not None)
        none = passed.probs
        counts = torch.empty(self.blocks, s.top_k, self.width, dtype=torch.int32, device=x.device)
        sums = torch.empty(self.blocks, self.width + 1, dtype=torch.float32, device=x.device)
        self.launch(
            "route",
            routing.route_kernel,
            (self.blocks,),
            x,
            padding if self.opens and padding is not None else at,
            norm.gamma if norm else none,
            norm.beta if norm else none,
            self.weight,
            passed.normed,
            passed.means,
            passed.scales,
            passed.probs,
            passed.choices,
            counts,
            sums,
            none if self.seeds is None else self.seeds,
            self.number,
            self.tokens,
            self.dim,
            self.experts,
            s.epsilon,
            HERE=self.where(padding),
            NORM=norm is not None,
            TOP_K=s.top_k,
            GUMBEL=s.gumbel,
            PRECISION="ieee",
            EVEN=self.dim % 128 == 0,
            BT=self.block,
            BD=128,
            BE=self.width,
            num_warps=4 if self.block <= 32 else 8,
        )
        self.launch(
            "place",
            routing.place_kernel,
            (self.blocks,),
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
            walk.balance,
            walk.entropy,
            none if self.seeds is None else self.seeds,
            self.number,
            self.tokens,
            self.experts,
            self.blocks,
            *s.capacity,
            s.mask,
            s.scale,
            TOP_K=s.top_k,
            CAPACITY=0 if not s.capacity_factor else 2 if s.release else 1,
            MASK=s.mask > 0,
            PAD=self.tiles.pad,
            BB=max(32, 4096 // self.width),
            BT=self.block,
            BE=self.width,
            num_warps=4,
        )
        products_ = Products(passed, self.weights, self.first, s, self.tiles, self.seeds, self.number, self.launch)
        seen = passed.normed if norm else x
        hidden, keep_h = passed.kept, False
        if not self.relu:
            keep_h, hidden = keep, x.new_empty(passed.token_of_row.size(0), self.hidden, dtype=passed.kept.dtype)
        w = self.weights
        kept = passed.kept if keep_h else hidden
        products_.rows(UP, self.tiles.up, seen.to(w.w_in.dtype), True, w.w_in, w.b_in, hidden, kept=kept, keep_h=keep_h)
        rows = torch.empty(hidden.size(0), self.dim, dtype=hidden.dtype, device=x.device)
        products_.rows(DOWN, self.tiles.down, hidden, False, w.w_out, w.b_out, rows)
        bt, bd = 16, min(256, triton.next_power_of_2(self.dim))
        self.launch(
            "combine",
            routing.combine_kernel,
            (triton.cdiv(self.tokens, bt), triton.cdiv(self.dim, bd)),
            rows,
            passed.row_of_slot,
            passed.choices,
            passed.normed if self.residual == NORMED else x,
            walk.y,
            walk.later,
            at,
            walk.visits,
            walk.next_gate,
            none if self.seeds is None else self.seeds,
            self.number,
            self.first,
            self.gates,
            self.tokens,
            self.dim,
            1.0 - s.dropout,
            TOP_K=s.top_k,
            RESIDUAL=self.residual,
            STRATA=s.strata,
            OPENS=self.opens,
            DROPOUT=s.dropout > 0,
            BT=bt,
            BD=bd,
            num_warps=4,
        )
        return passed

    def backward(
        self,
        grad: Tensor,
        grad_balance: Tensor,
        x: Tensor,
        norm: Norm | None,
        passed: Passed,
        grads: Experts,
        first_added: int,
        reuse: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(grad of x, of the gate's weight, of the norm's weights [2, D]); those of the experts go into ``grads``.

        first_added  the experts from this one on have gradients of later gates: add to them
        reuse        what was kept may be overwritten
        """
        s, w, t, d = self.settings, self.weights, self.tokens, self.dim
        dtype, device = w.w_in.dtype, x.device
        products_ = Products(passed, w, self.first, s, self.tiles, self.seeds, self.number, self.launch)
        bound = passed.token_of_row.size(0)
        by_row = s.expert_dropout > 0
        grad_y = self._grad_y(grad, passed, by_row).to(dtype)
        seen = (passed.normed if norm else x).to(dtype)
        kept, tile = passed.kept, self.tiles.grad_hidden
        active, grad_h = kept, kept
        if not self.relu:
            active, grad_h = torch.empty_like(kept), torch.empty_like(kept)
        elif not reuse:
            grad_h = torch.empty_like(kept)
        parts = triton.cdiv(self.hidden, tile.columns)
        weight_parts = torch.empty(parts, bound, dtype=torch.float32, device=device)
        bias_parts = torch.empty(bound // tile.rows, self.hidden, dtype=torch.float32, device=device)
        if self.relu:
            products_.outer(
                self.tiles.grad_w_out, grad_y, not by_row, active, False, grads.w_out, first_added, "grad_w_out"
            )
        products_.rows(
            GRAD_HIDDEN,
            tile,
            grad_y,
            not by_row,
            w.w_out,
            None,
            grad_h,
            kept=kept,
            second=active,
            weight_parts=weight_parts,
            bias_parts=bias_parts,
        )
        if not self.relu:
            products_.outer(
                self.tiles.grad_w_out, grad_y, not by_row, active, False, grads.w_out, first_added, "grad_w_out"
            )
        products_.outer(self.tiles.grad_w_in, grad_h, False, seen, True, grads.w_in, first_added, "grad_w_in")
        grad_rows = torch.empty(bound, d, dtype=dtype, device=device)
        products_.rows(GRAD_INPUT, self.tiles.grad_input, grad_h, False, w.w_in, None, grad_rows)

        exact = precision(dtype)
        columns = triton.next_power_of_2(d)
        whole = norm is not None and norm_goes_along(t, d, self.width)
        bt, bd, warps = (4, max(128, columns), max(1, columns // 128)) if whole else (16 if t <= 16384 else 32, 64, 4)
        blocks = triton.cdiv(t, bt)
        norm_rows = max(1, 2048 // columns)
        norm_blocks = min(triton.cdiv(t, bt if whole else norm_rows), multiprocessors(device) * 4)
        grad_logits = torch.empty(t, self.width, dtype=torch.float32, device=device)
        grad_x = torch.empty_like(x)
        norm_parts = torch.empty(norm_blocks if norm else 0, 2, d, dtype=torch.float32, device=device)
        none = passed.probs
        self.launch(
            "token_gradient",
            routing.token_gradient_kernel,
            (norm_blocks if whole else blocks,),
            grad,
            grad_y,
            grad_rows,
            passed.row_of_slot,
            passed.choices,
            passed.weight_of_row,
            passed.probs,
            weight_parts,
            passed.load,
            grad_balance,
            w.b_out,
            self.weight,
            x,
            norm.gamma if norm else none,
            passed.means,
            passed.scales,
            grad_logits,
            grad_x,
            norm_parts,
            self.first,
            t,
            d,
            self.experts,
            bound,
            parts,
            s.scale,
            self.number,
            TOP_K=s.top_k,
            ACT_WEIGHTED=self.relu,
            MASK=s.mask > 0,
            BY_ROW=by_row,
            RESIDUAL=self.residual,
            PRECISION=exact,
            WHOLE=whole,
            NORM_FOLLOWS=norm is not None and not whole,
            BT=bt,
            BD=bd,
            BE=self.width,
            num_warps=warps,
            maxnreg=128 if whole else None,
        )
        if norm and not whole:
            self.launch(
                "norm_gradient",
                routing.norm_gradient_kernel,
                (norm_blocks,),
                grad,
                passed.choices,
                x,
                norm.gamma,
                passed.means,
                passed.scales,
                grad_x,
                norm_parts,
                t,
                d,
                RESIDUAL=self.residual,
                BT=norm_rows,
                BD=columns,
                num_warps=4 if columns <= 2048 else 8,
            )
        splits = min(16, triton.cdiv(t, 64))
        gate_parts = torch.empty(splits, 2, self.experts, d, dtype=torch.float32, device=device)
        self.launch(
            "gate_gradient",
            routing.gate_gradient_kernel,
            (triton.cdiv(d, 64), splits),
            grad_logits,
            passed.normed if norm else x,
            grad_y,
            passed.row_of_slot,
            passed.choices,
            passed.weight_of_row,
            gate_parts,
            t,
            d,
            self.experts,
            splits,
            TOP_K=s.top_k,
            BY_ROW=by_row,
            PRECISION=exact,
            BT=64,
            BD=64,
            BE=self.width,
            num_warps=4,
        )
        grad_weight = torch.empty_like(self.weight)
        grad_norm = torch.empty(2, d, dtype=norm.gamma.dtype, device=device) if norm else None
        f_tiles, d_tiles = triton.cdiv(self.hidden, 64), triton.cdiv(d, 64)
        self.launch(
            "reduce",
            routing.reduce_kernel,
            (self.experts * (f_tiles + 2 * d_tiles) + (2 * d_tiles if norm else 0),),
            gate_parts,
            bias_parts,
            norm_parts,
            passed.starts,
            grad_weight,
            grads.b_out,
            grads.b_in,
            none if grad_norm is None else grad_norm,
            self.first,
            first_added,
            self.experts,
            d,
            self.hidden,
            splits,
            norm_blocks,
            NORM=norm is not None,
            BM=tile.rows,
            BR=64,
            BC=64,
            num_warps=4,
        )
        return grad_x, grad_weight, grad_norm

    def _grad_y(self, grad: Tensor, passed: Passed, by_row: bool) -> Tensor:
        """The gradient of what the experts gave: by token [T, D], or by row [S, D]."""
        s, bd = self.settings, min(256, triton.next_power_of_2(self.dim))
        if by_row:
            out = torch.empty(passed.token_of_row.size(0), self.dim, dtype=grad.dtype, device=grad.device)
            self.launch(
                "row_gradient",
                routing.row_gradient_kernel,
                (triton.cdiv(out.size(0), 16), triton.cdiv(self.dim, bd)),
                grad,
                passed.token_of_row,
                passed.starts,
                self.seeds,
                self.number,
                out,
                self.experts,
                self.dim,
                1.0 - s.expert_dropout,
                BT=16,
                BD=bd,
            )
            return out
        if not s.dropout:
            return grad
        out = torch.empty_like(grad)
        self.launch(
            "dropout_gradient",
            routing.dropout_gradient_kernel,
            (triton.cdiv(self.tokens, 16), triton.cdiv(self.dim, bd)),
            grad,
            passed.choices,
            self.seeds,
            self.number,
            out,
            self.tokens,
            self.dim,
            1.0 - s.dropout,
            BT=16,
            BD=bd,
        )
        return out


class Walk(NamedTuple):
    """What all gates of a block write to: y [T, D], later [gates - 1, T, D], visits int64 [T], and a number per gate."""

    y: Tensor
    later: Tensor
    visits: Tensor
    next_gate: Tensor
    balance: Tensor
    entropy: Tensor


def as_norms(norms: list[Tensor]) -> list[Norm | None]:
    return [Norm(*pair) for pair in zip(norms[::2], norms[1::2])]


def block_forward(
    x: Tensor,
    padding: Tensor | None,
    next_gate: Tensor,
    seeds: Tensor | None,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    settings: str,
    keep: bool,
) -> list[Tensor]:
    """[y, balance, entropy, visits, later, a load per gate, and what each gate keeps (``keep``)]."""
    s, w = Settings.of(settings), Experts(*experts)
    t, d = x.shape
    walk = Walk(
        y=torch.empty(t, d, dtype=x.dtype if s.strata else w.w_in.dtype, device=x.device),
        later=torch.empty(len(gates) - 1, t, d, dtype=x.dtype, device=x.device),
        visits=torch.empty(t, dtype=torch.int64, device=x.device),
        next_gate=next_gate,
        balance=torch.empty(len(gates), dtype=torch.float32, device=x.device),
        entropy=torch.empty(len(gates), dtype=torch.float32, device=x.device),
    )
    at = torch.empty(t, dtype=torch.int32, device=x.device)
    pairs = as_norms(norms) or [None] * len(gates)
    inputs = [x, *walk.later]
    given = [x, *gates, *norms, *experts, *([] if padding is None else [padding])]
    kinds = (keep, padding is None, norms[0].dtype if norms else None)
    passes = [
        Gate(i, x, gates, w, s, seeds).starting(x, given, *kinds).forward(inputs[i], padding, at, pairs[i], walk, keep)
        for i in range(len(gates))
    ]
    kept = [tensor for passed in passes for tensor in passed if tensor is not passed.load] if keep else []
    return [walk.y, walk.balance, walk.entropy, walk.visits, walk.later, *(p.load for p in passes), *kept]


def block_backward(
    grad: Tensor,
    grad_balance: Tensor,
    x: Tensor,
    seeds: Tensor | None,
    later: Tensor,
    gates: list[Tensor],
    norms: list[Tensor],
    experts: list[Tensor],
    kept: list[Tensor],
    settings: str,
    reuse: bool,
) -> list[Tensor]:
    """[grad of x, of the gates, of the norms, of the experts]; kept: what ``block_forward`` kept, the loads after it."""
    s, w = Settings.of(settings), Experts(*experts)
    grads = Experts(*(torch.empty_like(weight) for weight in w))
    pairs = as_norms(norms) or [None] * len(gates)
    inputs = [x, *later]
    fields = len(Passed._fields) - 1
    kept, loads = kept[: fields * len(gates)], kept[fields * len(gates) :]
    all_experts = w.w_in.size(0)
    grad_gates: list[Tensor] = []
    grad_norms: list[Tensor] = []
    added = all_experts
    given = [grad, x, *gates, *norms, *experts]
    kinds = ("backward", grad.dtype, norms[0].dtype if norms else None)
    for i in reversed(range(len(gates))):
        own = kept[fields * i : fields * (i + 1)]
        passed = Passed._make((*own[:-1], loads[i], own[-1]))
        gate = Gate(i, x, gates, w, s, seeds).starting(x, given, *kinds)
        grad, grad_gate, grad_norm = gate.backward(grad, grad_balance, inputs[i], pairs[i], passed, grads, added, reuse)
        added = s.first_experts[i]
        grad_gates.insert(0, grad_gate)
        if grad_norm is not None:
            grad_norms = [*grad_norm, *grad_norms]
    return [grad, *grad_gates, *grad_norms, *grads]


def may_come_back() -> bool:
    """Whether another backward pass through the same graph may follow the one that runs."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or bool(asked())


class BlockFunction(torch.autograd.Function):
    """``block_forward`` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: str,
        gates: int,
        padding: Tensor | None,
        next_gate: Tensor,
        seeds: Tensor | None,
        x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """weights: those of the gates, of the norms (gamma, beta, ...), of the experts."""
        split = list(weights[:gates]), list(weights[gates:-4]), list(weights[-4:])
        out = block_forward(x, padding, next_gate, seeds, *split, settings, True)
        y, balance, entropy, visits, later, *rest = out
        loads, kept = rest[:gates], rest[gates:]
        ctx.settings, ctx.gates, ctx.output = settings, gates, y.dtype
        ctx.save_for_backward(x, seeds, later, *weights, *kept, *loads)
        ctx.mark_non_differentiable(entropy, visits, *loads)
        ctx.set_materialize_grads(False)
        return y, balance, entropy, visits, *loads

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_balance: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        x, seeds, later, *rest = ctx.saved_tensors
        gates = ctx.gates
        count = gates + 4 + (2 * gates if Settings.of(ctx.settings).strata else 0)
        weights, kept = rest[:count], rest[count:]
        split = weights[:gates], weights[gates:-4], weights[-4:]
        reuse = not may_come_back()
        if grad is None:
            grad = torch.zeros(x.shape, dtype=ctx.output, device=x.device)
        if grad_balance is None:
            grad_balance = torch.zeros(gates, dtype=torch.float32, device=x.device)
        grads = block_backward(
            grad.contiguous(), grad_balance.contiguous(), x, seeds, later, *split, kept, ctx.settings, reuse
        )
        return None, None, None, None, None, *grads
