"""How the products are cut into tiles, by the shape of the work.

The rules are what was fastest on one H100 (bf16; embed_dim 512 and 1,024, 500 to 65,536 tokens). Other cards get tiles that
fit into their shared memory; these were not tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    parts     1, 2 or 4: the columns of a result are finished part by part, with fewer registers
    bias_by_dot   the sums for a bias' gradient are products with ones, of 16 bits
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
    parts: int = 1
    bias_by_dot: bool = False

    @property
    def constants(self) -> dict[str, int]:
        """What a launch tells the kernel and the compiler of it."""
        return {
            "BM": self.rows,
            "BN": self.columns,
            "BK": self.depth,
            "GROUP": self.group,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


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


FEW_ROWS = 96  # of an expert, up to which tiles have 64 rows
WIDE = Tile(128, 256, 64, warps=8, stages=4, a_tma=True, b_tma=True, per_sm=1, parts=2)
SQUARE = Tile(128, 128, 64, a_tma=True, b_tma=True)
FLAT = Tile(64, 128, 64, stages=4, a_tma=True, b_tma=True)
GRAD_HIDDEN = Tile(128, 128, 64, parts=2)
SUMS = Tile(128, 128, 32, stages=7, a_tma=True, b_tma=True)


@cache
def choose_tiles(
    rows_per_expert: int, rows: int, embed_dim: int, ffn_dim: int, dtype: torch.dtype, device: torch.device
) -> Tiles:
    """Tiles for about so many ``rows`` in all, with all choices of the tokens; as many for each expert."""
    if dtype is torch.float32:
        pad = 64 if rows_per_expert > 32 else 32
        return Tiles(pad, *[Tile(min(64, pad), 64, 32, stages=2)] * 4, *[Tile(64, 64, 32, stages=2)] * 2)
    few = rows_per_expert <= FEW_ROWS
    if not roomy(device):
        pad = 64 if few else 128
        plain = Tile(pad, 128, 32, warps=4 if few else 8, stages=4)
        return Tiles(pad, *[plain] * 4, *[Tile(128, 128, 32, stages=4)] * 2)
    if few:
        deep = Tile(64, 128, 128, a_tma=True, b_tma=True)
        return Tiles(64, FLAT, deep, FLAT, FLAT, *[Tile(64, 128, 64, stages=4)] * 2)
    enough = multiprocessors(device) * 3 // 4

    def filling(columns: int, tiles: tuple[Tile, ...]) -> Tile:
        """The first one with a tile for most multiprocessors."""
        counts = ((tile, rows * columns // (tile.rows * tile.columns)) for tile in tiles)
        return next((tile for tile, count in counts if count >= enough), tiles[-1])

    up = filling(ffn_dim, (WIDE, SQUARE) if embed_dim >= 1024 else (SQUARE,))
    narrow = filling(embed_dim, (WIDE, SQUARE, FLAT))
    return Tiles(128, up, narrow, GRAD_HIDDEN, narrow, SUMS, SUMS)


def hidden_turns(size: int, share: float) -> int:
    """In how many turns the rows of a gate pass its hidden layer.

    size   bytes of the hidden layer if it had room for all rows
    share  of the tokens, expected at the gate

    Two turns where the layer is large and its first half is likely to be enough: then half of the memory is saved, and the launches of
    the second turn find nothing to do.
    """
    return 2 if size > 96 * 2**20 and share <= 0.375 else 1


def norm_goes_along(tokens: int, embed_dim: int, experts: int) -> bool:
    """Whether one kernel computes the gradients of tokens through gate and norm: faster for few tokens and short rows."""
    return tokens * embed_dim <= 2**21 and embed_dim * experts <= 2**15 and embed_dim <= 2048


@cache
def roomy(device: torch.device) -> bool:
    """Whether a multiprocessor has 227 KB of shared memory and a tensor memory accelerator; so where kernels are interpreted."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; a few on a CPU, where kernels are interpreted; an H100's for tensors without memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 132 if device.type == "meta" else 3
