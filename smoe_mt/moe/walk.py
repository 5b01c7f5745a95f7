"""The way of tokens through the gates of a block, one gate after the other; a token may skip gates, never go back.

Two ways to find the tokens at a gate. ``walk_gathered`` picks them out, so that a gate costs what its tokens cost; their
number is read back from the device. ``walk_masked`` passes all positions and lets a mask say who counts, so that a GPU
never makes the host wait; experts compute for those who count alone, what it wastes is cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.moe.passing import GatePass
from smoe_mt.moe.remote import AnyExperts


@dataclass(frozen=True)
class Visit:
    """What gate i makes of its tokens: their new x_TD, the gate that each meets next (int64 [T]) and the pass."""

    x_TD: Tensor
    next_T: Tensor
    passed: GatePass


@dataclass(frozen=True)
class Walk:
    """x_ND, as it was at padding; visits_N int64 [N]; a pass per gate, None at one that no token is known to reach."""

    x_ND: Tensor
    visits_N: Tensor
    passes: tuple[GatePass | None, ...]


# (gate i, x_TD of the tokens at hand, here_T: which of them count, None for all)
Gateway = Callable[[int, Tensor, Tensor | None], Visit]


def walk(x_ND: Tensor, padding_N: Tensor | None, gates: int, visit: Gateway, run: AnyExperts) -> Walk:
    """Through ``gates`` gates to the experts that ``run`` has; padding_N bool [N] or None."""
    if run.on_device:
        return walk_masked(x_ND, padding_N, gates, visit)
    return walk_gathered(x_ND, padding_N, gates, visit, run.skips_empty_gates)


def walk_gathered(
    x_ND: Tensor, padding_N: Tensor | None, gates: int, visit: Gateway, skips_empty_gates: bool = True
) -> Walk:
    """padding_N bool [N] or None; gate number ``gates`` means that a token has left."""
    at_N = starting_gates(x_ND, padding_N, gates)
    visits_N = torch.zeros_like(at_N)
    passes: list[GatePass | None] = []
    for i in range(gates):
        here = None
        if i or padding_N is not None:
            here = (at_N == i).nonzero().squeeze(1)
            here = None if here.numel() == at_N.numel() else here
        if skips_empty_gates and (at_N if here is None else here).numel() == 0:
            passes.append(None)
            continue
        if here is None:
            out = visit(i, x_ND, None)
            x_ND, at_N = out.x_TD, out.next_T
            visits_N += 1
        else:
            out = visit(i, x_ND.index_select(0, here), None)
            x_ND = x_ND.index_copy(0, here, out.x_TD.to(x_ND.dtype))
            at_N[here] = out.next_T
            visits_N[here] += 1
        passes.append(out.passed)
    return Walk(x_ND, visits_N, tuple(passes))


def walk_masked(x_ND: Tensor, padding_N: Tensor | None, gates: int, visit: Gateway) -> Walk:
    """The same, reading nothing back from the device."""
    at_N = starting_gates(x_ND, padding_N, gates)
    visits_N = torch.zeros_like(at_N)
    if x_ND.size(0) == 0:
        return Walk(x_ND, visits_N, (None,) * gates)
    given_ND = x_ND
    if padding_N is not None:  # whatever lies there must not become NaN on the way, whose gradient is not 0 then
        x_ND = x_ND.masked_fill(padding_N[:, None], 0.0)
    passes: list[GatePass | None] = []
    for i in range(gates):
        here_N = at_N == i
        out = visit(i, x_ND, here_N)
        x_ND = torch.where(here_N[:, None], out.x_TD.to(x_ND.dtype), x_ND)
        at_N = torch.where(here_N, out.next_T, at_N)
        visits_N = visits_N + here_N
        passes.append(out.passed)
    if padding_N is not None:
        x_ND = torch.where(padding_N[:, None], given_ND, x_ND)
    return Walk(x_ND, visits_N, tuple(passes))


def starting_gates(x_ND: Tensor, padding_N: Tensor | None, gates: int) -> Tensor:
    """Every token at gate 0, padding outside; int64 [N]."""
    if padding_N is None:
        return torch.zeros(x_ND.size(0), dtype=torch.long, device=x_ND.device)
    return padding_N.long() * gates
