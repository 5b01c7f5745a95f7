"""Copies between half precision and float32 give what fairseq's loops give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin as Mixin


def optimizer(with_gradients: bool) -> Any:
    halves = [torch.nn.Parameter(torch.full((n, 2), float(n), dtype=torch.bfloat16)) for n in (1, 3)]
    fulls = [torch.nn.Parameter(torch.randn(half.shape)) for half in halves]
    for half, full in zip(halves, fulls, strict=True):
        full.grad = torch.ones_like(full)
        half.grad = torch.randn_like(half) if with_gradients else None
    return SimpleNamespace(fp16_params=halves, fp32_params=fulls, has_flat_params=False, _needs_sync=True)


def test_gradients_arrive_in_float32() -> None:
    one = optimizer(with_gradients=True)
    Mixin._sync_fp16_grads_to_fp32(one)
    for half, full in zip(one.fp16_params, one.fp32_params, strict=True):
        assert torch.equal(full.grad, half.grad.float())
    assert not one._needs_sync


def test_a_weight_without_a_gradient_has_one_of_zero() -> None:
    one = optimizer(with_gradients=True)
    one.fp16_params[0].grad = None
    Mixin._sync_fp16_grads_to_fp32(one)
    assert not one.fp32_params[0].grad.any()
    assert torch.equal(one.fp32_params[1].grad, one.fp16_params[1].grad.float())


def test_weights_return_in_half_precision() -> None:
    one = optimizer(with_gradients=False)
    Mixin._sync_fp32_params_to_fp16(one)
    for half, full in zip(one.fp16_params, one.fp32_params, strict=True):
        assert torch.equal(half, full.detach().bfloat16())


def test_gradients_are_set_to_zero() -> None:
    one = optimizer(with_gradients=True)
    one.scaler, weights = None, one.fp32_params
    Mixin.zero_grad(one)
    assert one.fp32_params is weights and not any(weight.grad.any() for weight in weights)
    assert all(half.grad is None for half in one.fp16_params)
