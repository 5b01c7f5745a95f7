"""Experts of sub-tokens that cost what experts of whole tokens do (MH-MoE; Huang et al. 2024, arXiv 2411.16205, section 3).

With D the embedding, F the hidden units of a plain expert, h sub-tokens of width D/h, and R rows that a token, or each of its
sub-tokens, takes (k, times the expected visits of a stratified block), an expert of F' units:

    FLOPs        4 D R F  =  4 D R F' + 4 D^2         so F' = F - D / R
    parameters   E (2 D F + F + D) + gates  =  E' (2 (D/h) F' + F' + D/h) + gates' + 2 (D^2 + D)

F' and E' are whole numbers, so both hold only nearly: all that are close are tried, and the pair with the smallest difference
is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from smoe_mt.moe.strata import expected_visits

TOLERANCE = 0.01
MULTIPLE = 8  # of hidden units: what grouped products of 16-bit numbers need, where it can be had within the tolerance


@dataclass(frozen=True)
class EqualCost:
    """Hidden units of an expert, experts of each stratum or of the one gate, and how far off they are.

    flops, parameters  of the block, over those of the plain one
    """

    ffn_dim: int
    groups: tuple[int, ...]
    flops: float
    parameters: float

    @property
    def difference(self) -> float:
        """The larger one of FLOPs and parameters, relative."""
        return max(abs(self.flops - 1), abs(self.parameters - 1))


@cache
def equal_cost(
    embed_dim: int, ffn_dim: int, groups: tuple[int, ...], top_k: int, heads: int, nested: bool = False
) -> EqualCost:
    """Experts for ``heads`` sub-tokens of a token, in place of ``groups`` experts of ``ffn_dim`` units for whole tokens.

    ``heads`` divides ``embed_dim``. Strata (``nested``) grow in proportion.

    Raises:
        ValueError: none whose FLOPs and parameters differ by 1% at most.
    """
    plain = _Block(embed_dim, ffn_dim, groups, nested)
    start = ffn_dim - embed_dim / (top_k * plain.visits)
    least, most = max(1, int(start - 0.02 * ffn_dim)), int(start + 0.02 * ffn_dim) + 2
    best: EqualCost | None = None
    for widths in (range(least + -least % MULTIPLE, most, MULTIPLE), range(least, most)):
        found = [one for width in widths for one in _of_width(plain, width, top_k, heads)]
        best = min(found, key=lambda one: one.difference, default=best)
        if best is not None and best.difference <= TOLERANCE:
            return best
    nearest = "" if best is None else f" (the nearest differs by {best.difference:.1%})"
    raise ValueError(
        f"mhmoe_parity=flops: no experts of {heads} sub-tokens cost what {'+'.join(map(str, groups))} experts of {ffn_dim} "
        f"units do{nearest}: change heads or experts, or set mhmoe_parity=none"
    )


@dataclass(frozen=True)
class _Block:
    """A block without projections."""

    dim: int
    ffn_dim: int
    groups: tuple[int, ...]
    nested: bool

    @property
    def visits(self) -> float:
        """Of a token, under uniform routing."""
        return expected_visits(self.groups) if self.nested else 1.0

    @property
    def parameters(self) -> int:
        """Of experts, gates and norms."""
        visible = [sum(self.groups[i:]) for i in range(len(self.groups) if self.nested else 1)]
        norms = 2 * self.dim * len(self.groups) if self.nested else 0
        an_expert = 2 * self.dim * self.ffn_dim + self.ffn_dim + self.dim
        return sum(self.groups) * an_expert + sum(visible) * self.dim + norms


def _of_width(plain: _Block, width: int, top_k: int, heads: int) -> list[EqualCost]:
    """With experts of so many units, the nearest numbers of them."""
    dim = plain.dim
    projections = 2 * (dim**2 + dim)
    one_each = _Block(dim // heads, width, plain.groups, plain.nested)
    ideal = sum(plain.groups) * (plain.parameters - projections) / one_each.parameters
    found = []
    for total in range(max(len(plain.groups), int(ideal) - 1), int(ideal) + 3):
        block = replace(one_each, groups=in_proportion(plain.groups, total))
        flops = (top_k * block.visits * width + dim) / (top_k * plain.visits * plain.ffn_dim)
        found.append(EqualCost(width, block.groups, flops, (block.parameters + projections) / plain.parameters))
    return found


def in_proportion(sizes: Sequence[int], total: int) -> tuple[int, ...]:
    """``total`` shared out in proportion to ``sizes``, at least 1 each; what is left goes to the largest remainders."""
    shares = [total * size / sum(sizes) for size in sizes]
    found = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (found[i] - shares[i], i))
    for i in by_remainder[: max(0, total - sum(found))]:
        found[i] += 1
    return tuple(found)
