"""How the products are cut into tiles, by the shape of the work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch


@dataclass(frozen=True)
class Tile:
    """Sizes of one product's tiles.

    rows, columns, depth  of a tile
    group     row tiles that go together through all columns
    warps, stages  of a program
    a_tma, b_tma   which side is loaded by the tensor memory accelerator (Hopper)
    per_sm    programs for each multiprocessor, which take tile after tile; 0: a program for each tile
    halves    the columns of a result are finished half by half, with fewer registers
    """

    rows: int
    columns: int
    depth: int
    group: int = 8
    warps: int = 4
    stages: int = 3
    a_tma: bool = False
    b_tma: bool = False
    per_sm: int = 0
    halves: bool = False


@dataclass(frozen=True)
class Tiles:
    """Tiles of the products of a gate; ``pad``: rows of each expert are padded to a multiple of it."""

    pad: int
    up: Tile
    down: Tile
    grad_hidden: Tile
    grad_input: Tile
    grad_w_in: Tile
    grad_w_out: Tile


def choose_tiles(rows_per_expert: int, dtype: torch.dtype) -> Tiles:
    """Tiles for about so many rows an expert (with all choices of all positions)."""
    if dtype is torch.float32:
        tile = Tile(64, 64, 32, warps=4, stages=2)
        return Tiles(64 if rows_per_expert > 32 else 32, *_limited(tile, 64 if rows_per_expert > 32 else 32))
    pad = 128 if rows_per_expert > 96 else 64 if rows_per_expert > 32 else 32
    return Tiles(pad, *_limited(Tile(128, 128, 64, warps=8, stages=3), pad))


def _limited(tile: Tile, pad: int) -> list[Tile]:
    rows = replace(tile, rows=min(tile.rows, pad))
    sums = replace(tile, depth=min(tile.depth, pad))
    return [rows] * 4 + [sums] * 2


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; a few on a CPU, where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
