"""Half precision with weights kept apart: gradients and weights are copied in few launches, not parameter by parameter."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from smoe_mt.fairseq_patches.patch import Patch

MIXIN = "fairseq.optim.fp16_optimizer._FP16OptimizerMixin"


def sync_gradients(original: Any) -> Any:
    """From the gradients of the half-precision weights to those in float32."""

    @wraps(original)
    def sync(self: Any) -> None:
        pairs = [] if self.has_flat_params else list(zip(self.fp16_params, self.fp32_params, strict=True))
        alike = all(half.grad is not None and full.grad is not None for half, full in pairs)
        if not self._needs_sync or not pairs or not alike:
            original(self)
            return
        torch._foreach_copy_([full.grad for _, full in pairs], [half.grad for half, _ in pairs])
        self._needs_sync = False

    return sync


def sync_weights(original: Any) -> Any:
    """From the float32 weights to those of half precision."""

    @wraps(original)
    def sync(self: Any) -> None:
        if self.has_flat_params:
            original(self)
            return
        with torch.no_grad():
            torch._foreach_copy_(list(self.fp16_params), list(self.fp32_params))

    return sync


def zero_gradients(original: Any) -> Any:
    """Of both: none in half precision, zero in float32."""

    @wraps(original)
    def zero(self: Any) -> None:
        if self.has_flat_params:
            original(self)
            return
        full = [weight.grad for weight in self.fp32_params if weight.grad is not None]
        if full:
            torch._foreach_zero_(full)
        with_gradients, self.fp32_params = self.fp32_params, []
        try:
            original(self)
        finally:
            self.fp32_params = with_gradients

    return zero


PATCHES = (
    Patch(
        f"{MIXIN}._sync_fp16_grads_to_fp32",
        sync_gradients,
        "one copy for each parameter: a small model waits for the host",
        ("self",),
    ),
    Patch(f"{MIXIN}._sync_fp32_params_to_fp16", sync_weights, "the same on the way back", ("self",)),
    Patch(f"{MIXIN}.zero_grad", zero_gradients, "the same where they are set to zero", ("self",)),
)
