"""Blocks and torch.compile: the rest of a model may be compiled, its blocks run uncompiled.

Their time is in products that a compiler leaves as they are, and how many rows each has changes at every pass.
"""

from __future__ import annotations

import torch
from torch import nn

from smoe_mt.moe.block import MoEBlock


def keep_blocks_out_of_graphs(model: nn.Module) -> nn.Module:
    """Let ``torch.compile(model)`` pass over the blocks in ``model``; returns it."""
    for module in model.modules():
        if isinstance(module, MoEBlock):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    return model
