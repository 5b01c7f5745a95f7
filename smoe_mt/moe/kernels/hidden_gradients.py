"""The head of a backward pass through experts, the same for all rows at once and for one expert's: to the hidden layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smoe_mt.moe.experts.activations import Activation


class HiddenGradients(NamedTuple):
    """Gradients of S rows, without their combine weights but for the last one.

    grad_out     [S, D], of the experts' outputs
    active       [S, F], the activation, no gradient
    grad_h       [S, F], of what comes before the activation
    grad_weight  [S], of the combine weights: <grad_out W_out, active> + <grad_out, b_out>; None where nobody asks
    """

    grad_out: Tensor
    active: Tensor
    grad_h: Tensor
    grad_weight: Tensor | None


def hidden_gradients(
    grad_TD: Tensor,
    token_S: Tensor,
    drop_SD: Tensor | None,
    to_hidden: Callable[[Tensor], Tensor],
    b_out: Tensor,
    kept_SF: Tensor,
    activation: Activation,
    weight_dtype: torch.dtype | None,
) -> HiddenGradients:
    """From the gradient of y, [T, D].

    drop_SD       the dropout mask on the experts' outputs, or None
    to_hidden     [S, D] -> [S, F], times each row's W_out
    b_out         [D] of one expert, or [S, D] of each row's
    weight_dtype  of the combine weights' gradients; None: nobody asks for them
    """
    grad_out = grad_TD.index_select(0, token_S)
    if drop_SD is not None:
        grad_out.mul_(drop_SD)
    grad_a, active, grad_weight = to_hidden(grad_out), activation.output(kept_SF), None
    if weight_dtype is not None:
        grad_weight = (grad_a * active).sum(dim=1, dtype=weight_dtype)
        grad_weight += grad_out @ b_out if b_out.dim() == 1 else (grad_out * b_out).sum(dim=1, dtype=weight_dtype)
    return HiddenGradients(grad_out, active, activation.grad(grad_a, kept_SF), grad_weight)
