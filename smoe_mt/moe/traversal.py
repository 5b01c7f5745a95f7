"""The traversal of a block's gates by its tokens, one gate after the other; a token may skip gates, never go back.

Two ways to find the tokens at a gate. ``traverse_gathered`` picks them out, so that a gate costs what its tokens cost; their
number is read back from the device. ``traverse_masked`` passes all positions with a mask of the active ones, so that a GPU
never makes the host wait; experts compute active tokens alone, and the rest of what is wasted is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.moe.block import wants_routing
from smoe_mt.moe.experts.base import BoundExperts
from smoe_mt.moe.few import takes_few
from smoe_mt.moe.routed import RoutedOutput


@dataclass(frozen=True)
class GateOutput:
    """What gate i makes of its tokens: their new x_TD, the gate that each meets next and the pass.

    next_T  int64 [T], or numbers of Python where it routed a few tokens
    """

    x_TD: Tensor
    next_T: Tensor | list[int]
    routed: RoutedOutput


@dataclass(frozen=True)
class Traversal:
    """x_ND, as it was at padding; visits_N int64 [N]; a pass per gate, None at one that no token is known to reach.

    units  hidden units asked for a token, over all of its visits: of every visit, or int64 [N]
    """

    x_ND: Tensor
    visits_N: Tensor
    passes: tuple[RoutedOutput | None, ...]
    units: int | Tensor


# (gate i, x_TD of the tokens at hand, active_T: which of them count, None for all)
GateFn = Callable[[int, Tensor, Tensor | None], GateOutput]


def traverse(
    x_ND: Tensor, padding_N: Tensor | None, gates: int, gate: GateFn, experts: BoundExperts, training: bool
) -> Traversal:
    """Through ``gates`` gates to the ``experts``; padding_N bool [N] or None."""
    if experts.never_syncs:
        return traverse_masked(x_ND, padding_N, gates, gate)
    if padding_N is None and not wants_routing(training) and takes_few(x_ND.size(0), experts):
        return traverse_few(x_ND, gates, gate)
    return traverse_gathered(x_ND, padding_N, gates, gate, experts.skips_empty_gates)


def traverse_few(x_ND: Tensor, gates: int, gate: GateFn) -> Traversal:
    """The same for a few tokens: Python remembers where they are."""
    at, visits = [0] * x_ND.size(0), [0] * x_ND.size(0)
    passes: list[RoutedOutput | None] = [None] * gates
    reached: list[Tensor | None] = [None] * gates
    for i in range(gates):
        here = [token for token, place in enumerate(at) if place == i]
        if not here:
            continue
        here_T = None if len(here) == len(at) else torch.tensor(here)
        out = gate(i, x_ND if here_T is None else x_ND.index_select(0, here_T), None)
        x_ND = out.x_TD if here_T is None else x_ND.index_copy(0, here_T, out.x_TD.to(x_ND.dtype))
        reached[i] = here_T
        places = out.next_T.tolist() if isinstance(out.next_T, Tensor) else out.next_T
        for token, place in zip(here, places):
            at[token] = place
            visits[token] += 1
        passes[i] = out.routed
    visits_N = torch.tensor(visits, dtype=torch.long)
    units = _units(visits_N, passes, lambda i, units_T: _scattered(visits_N, reached[i], units_T))
    return Traversal(x_ND, visits_N, tuple(passes), units)


def traverse_gathered(
    x_ND: Tensor, padding_N: Tensor | None, gates: int, gate: GateFn, skips_empty_gates: bool = True
) -> Traversal:
    """padding_N bool [N] or None; gate number ``gates`` means that a token has left."""
    at_N = starting_gates(x_ND, padding_N, gates)
    visits_N = torch.zeros_like(at_N)
    passes: list[RoutedOutput | None] = []
    reached: list[Tensor | None] = []
    for i in range(gates):
        here = None
        if i or padding_N is not None:
            here = (at_N == i).nonzero().squeeze(1)
            here = None if here.numel() == at_N.numel() else here
        reached.append(here)
        if skips_empty_gates and (at_N if here is None else here).numel() == 0:
            passes.append(None)
            continue
        if here is None:
            out = gate(i, x_ND, None)
            x_ND, at_N = out.x_TD, torch.as_tensor(out.next_T)
            visits_N += 1
        else:
            out = gate(i, x_ND.index_select(0, here), None)
            x_ND = x_ND.index_copy(0, here, out.x_TD.to(x_ND.dtype))
            at_N[here] = torch.as_tensor(out.next_T)
            visits_N[here] += 1
        passes.append(out.routed)
    units = _units(visits_N, passes, lambda i, units_T: _scattered(visits_N, reached[i], units_T))
    return Traversal(x_ND, visits_N, tuple(passes), units)


def traverse_masked(x_ND: Tensor, padding_N: Tensor | None, gates: int, gate: GateFn) -> Traversal:
    """The same, reading nothing back from the device."""
    at_N = starting_gates(x_ND, padding_N, gates)
    visits_N = torch.zeros_like(at_N)
    if x_ND.size(0) == 0:
        return Traversal(x_ND, visits_N, (None,) * gates, 0)
    given_ND = x_ND
    if padding_N is not None:  # whatever lies there must not become NaN on the way, whose gradient is not 0 then
        x_ND = x_ND.masked_fill(padding_N[:, None], 0.0)
    passes: list[RoutedOutput | None] = []
    reached: list[Tensor] = []
    for i in range(gates):
        here_N = at_N == i
        out = gate(i, x_ND, here_N)
        x_ND = torch.where(here_N[:, None], out.x_TD.to(x_ND.dtype), x_ND)
        at_N = torch.where(here_N, torch.as_tensor(out.next_T), at_N)
        visits_N = visits_N + here_N
        passes.append(out.routed)
        reached.append(here_N)
    if padding_N is not None:
        x_ND = torch.where(padding_N[:, None], given_ND, x_ND)
    units = _units(visits_N, passes, lambda i, units_T: units_T * reached[i])
    return Traversal(x_ND, visits_N, tuple(passes), units)


def starting_gates(x_ND: Tensor, padding_N: Tensor | None, gates: int) -> Tensor:
    """Every token at gate 0, padding outside; int64 [N]."""
    if padding_N is None:
        return torch.zeros(x_ND.size(0), dtype=torch.long, device=x_ND.device)
    return padding_N.long() * gates


def _units(
    visits_N: Tensor, passes: Sequence[RoutedOutput | None], place: Callable[[int, int | Tensor], Tensor]
) -> int | Tensor:
    """Over all gates; one number where every visit asks for as many. ``place`` puts a gate's units at its tokens, [N]."""
    reached = [(i, out.units) for i, out in enumerate(passes) if out is not None]
    alike = {units for _, units in reached if not isinstance(units, Tensor)}
    if len(alike) <= 1 and not any(isinstance(units, Tensor) for _, units in reached):
        return alike.pop() if alike else 0
    total_N = torch.zeros_like(visits_N)
    for i, units in reached:
        total_N = total_N + place(i, units)
    return total_N


def _scattered(like_N: Tensor, here: Tensor | None, units_T: int | Tensor) -> Tensor:
    if here is None:
        return torch.zeros_like(like_N) + units_T
    placed_N = torch.zeros_like(like_N)
    placed_N[here] = units_T
    return placed_N
