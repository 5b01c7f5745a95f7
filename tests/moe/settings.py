"""Settings of a model as a system reads them, without fairseq."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smoe_mt.moe import SYSTEMS

#: Activations of products by the names of `linear.ACTIVATIONS`, as torch computes them.
ACTIVATED: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}

SHARED: dict[str, Any] = {
    "top_k": 2,
    "capacity_factor": None,
    "variant": "paper",
    "dropout": 0.0,
    "activation_fn": "relu",
    "moe_backend": "loop",
    "eom_p": None,
    "second_choice": "argmax",
    "moe_debug": False,
    "gate_bias": False,
}


def settings_of(name: str, **changed: Any) -> SimpleNamespace:
    """The defaults of a system's settings, with some of them changed."""
    options = SYSTEMS[name].options
    own = {} if options is None else {each.name: each.default for each in fields(options)}
    return SimpleNamespace(**{**SHARED, **own, **changed})


def padded_batch(embed_dim: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens float64 [2, 6, D], and the padding of the second sequence, its last two positions."""
    x = torch.randn(2, 6, embed_dim, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return x, mask


def saved_shapes(compute: Callable[[], object]) -> list[torch.Size]:
    """Of all that autograd saves while something is computed."""
    shapes: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return shapes
