"""The loss of fairseq, without its copies of the logits."""

from __future__ import annotations

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.criterions import smoothed_loss as module
from smoe_mt.criterions.smoothed_loss import smoothed_loss

PAD = 1


def fairseqs(logits: Tensor, target: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss, nll = label_smoothed_nll_loss(log_probs, target, epsilon, ignore_index=PAD, reduce=False)
    return loss.squeeze(-1), nll.squeeze(-1)


def gradient(loss: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((loss * weights).sum(), logits)
    return found


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(0, 9),
    v=st.integers(2, 40),
    epsilon=st.sampled_from([0.0, 0.1, 0.9]),
    scale=st.sampled_from([0.1, 10.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    at_once=st.sampled_from([1, 60, 1 << 21]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_fairseqs(
    n: int, v: int, epsilon: float, scale: float, dtype: torch.dtype, at_once: int, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    raw = (torch.randn(n, v, generator=drawn) * scale).to(dtype).requires_grad_()
    target = torch.randint(0, v, (n,), generator=drawn)
    weights = torch.rand(n, generator=drawn) + 0.5
    want = fairseqs(raw, target, epsilon)
    want_gradient = gradient(want[0], raw, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VALUES_AT_ONCE", at_once)
        logits = raw * 1  # a model's, which no optimiser holds
        got = smoothed_loss(logits, target, epsilon, PAD)
        got_gradient = gradient(got[0], raw, weights)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got_gradient, want_gradient, rtol=1e-4, atol=1e-5 if dtype is torch.float32 else 1e-2)
    assert not got[1].requires_grad


def test_the_gradient_takes_the_place_of_the_logits() -> None:
    raw = torch.randn(5, 7, requires_grad=True)
    logits = raw * 1
    places: list[int] = []
    logits.register_hook(lambda grad: places.append(grad.data_ptr()))
    loss, _ = smoothed_loss(logits, torch.tensor([0, 2, 3, PAD, 6]), 0.1, PAD)
    loss.sum().backward(retain_graph=True)
    assert places == [logits.data_ptr()]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()
