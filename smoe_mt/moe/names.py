"""What a MoE block is called: the path of its layer's module, as in the names of its weights (``decoder.layers.1``).

Logs, TensorBoard tags, tables, figures and files all take the name from here. As in PyTorch, it counts layers from 0; gates,
strata and experts are counted from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SIDES = ("encoder", "decoder")


@dataclass(frozen=True, order=True)
class Block:
    """One MoE block: `side` is encoder or decoder, `layer` its 1-based number there. Its ``str`` is its name."""

    side: str
    layer: int

    def __str__(self) -> str:
        return f"{self.side}.layers.{self.layer - 1}"


def module_of(model: Any, block: Block) -> Any:
    """The block itself, a part of its layer."""
    return getattr(model, block.side).layers[block.layer - 1].block


def groups_of_blocks(model: Any) -> dict[Block, tuple[int, ...]]:
    """Of each MoE block of a model, in their order, the experts of its strata or layers, or of its one gate."""
    groups = model.cfg.groups
    return dict(zip(blocks_of(model), (group for side in SIDES for group in groups[side]), strict=True))


def blocks_of(model: Any) -> tuple[Block, ...]:
    """The MoE blocks of a model, encoder first, in layer order."""
    return tuple(Block(side, layer) for side in SIDES for layer in model.moe_layers[side])
