"""The tokens at a gate, packed: which ones they are and how many, counted on the device.

A program of a gate works on places of that list, and leaves where its places lie beyond the count: a stratum costs what its tokens
cost. Where all tokens are at the gate there is no list (not PACKED), and a token's place is its number.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count_here(count, T, PACKED: tl.constexpr):
    """How many tokens are at the gate."""
    if PACKED:
        return tl.load(count)
    else:
        return T


@triton.jit
def token_at(tokens, place, inside, PACKED: tl.constexpr):
    """The token at each place."""
    if PACKED:
        return tl.load(tokens + place, mask=inside, other=0)
    else:
        return place


@triton.jit(do_not_specialize=["gate", "T"])
def pack_kernel(
    where,  # int32 [T], the gate that each token is at; or bool [T], which ones are padding, for gate 0
    tokens,  # int32 [T]: first those at the gate, then the others, both in order
    count,  # int32 [1], how many are at the gate
    gate,
    T,
    BT: tl.constexpr,
    BS: tl.constexpr,  # tokens that are counted at once
):
    """A place for each token. A program counts those at the gate before its own tokens: no atomics, the same list every time."""
    begin = tl.program_id(0) * BT
    before = tl.zeros((BS,), tl.int32)
    everywhere = tl.zeros((BS,), tl.int32)
    for start in tl.range(0, T, BS):
        some = start + tl.arange(0, BS)
        here = (tl.load(where + some, mask=some < T, other=-1).to(tl.int32) == gate) & (some < T)
        everywhere += here.to(tl.int32)
        before += (here & (some < begin)).to(tl.int32)
    total = tl.sum(everywhere, axis=0)
    t = begin + tl.arange(0, BT)
    inside = t < T
    here = (tl.load(where + t, mask=inside, other=-1).to(tl.int32) == gate) & inside
    up_to = tl.sum(before, axis=0) + tl.cumsum(here.to(tl.int32), axis=0)
    tl.store(tokens + tl.where(here, up_to - 1, total + t - up_to), t, mask=inside)
    if begin == 0:
        tl.store(count, total)
