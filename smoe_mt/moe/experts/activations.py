"""Activations of the experts with their derivatives, written so that a backward pass needs one [S, F] tensor, not two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """a = f(h), with what a backward pass keeps of h: ``kept``, which may lie in h's memory.

    keep    h -> kept, in place
    output  kept -> a, ``kept`` staying as it is
    grad    (grad of a, kept) -> grad of h
    whole   h -> a for autograd, h staying as it is
    """

    name: str
    keep: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]
    grad: Callable[[Tensor, Tensor], Tensor]
    whole: Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def _relu_grad(grad_a: Tensor, a: Tensor) -> Tensor:
    grad_h: Tensor = torch.ops.aten.threshold_backward(grad_a, a, 0)
    return grad_h


ACTIVATIONS = {
    # relu's derivative can be read off its output, so h itself need not stay.
    "relu": Activation("relu", torch.relu_, _same, _relu_grad, F.relu),
    "gelu": Activation("gelu", _same, F.gelu, torch.ops.aten.gelu_backward, F.gelu),
    "silu": Activation("silu", _same, F.silu, torch.ops.aten.silu_backward, F.silu),
}


def activation(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
        ValueError: an unknown one.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
