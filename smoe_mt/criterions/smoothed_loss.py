"""Label-smoothed cross-entropy from logits, with one copy of them in memory.

With many pieces and narrow models logits are most of what a step holds. fairseq's loss keeps their log-softmax, and its gradient is
made of three more tensors of that size; here the gradient takes the place of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

VALUES_AT_ONCE = 1 << 17  # on a CPU: half a MB in float32, which a core's cache holds


def smoothed_loss(logits_NV: Tensor, target_N: Tensor, epsilon: float, ignored: int) -> tuple[Tensor, Tensor]:
    """(label-smoothed loss, negative log-likelihood) of each target token, float32 [N], 0 where the target is `ignored`; as fairseq's
    ``label_smoothed_nll_loss`` of the log-softmax, to rounding:

        loss = (1 - epsilon - e) * nll + e * sum_v -log p_v,   e = epsilon / (V - 1)

    Only the loss has a gradient. It is written over the logits, which nothing may read once it is asked for; a second backward pass
    through them is an error of autograd's.
    """
    loss_N, nll_N = _SmoothedLoss.apply(logits_NV, target_N, epsilon, ignored)
    return loss_N, nll_N


class _SmoothedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, epsilon: float, ignored: int) -> tuple[Tensor, Tensor]:
        N, V = logits_NV.shape
        log_sum_N, picked_N, sum_N = (logits_NV.new_empty(N, dtype=torch.float32) for _ in range(3))
        for rows in _parts(logits_NV):
            part = logits_NV[rows].float()
            torch.logsumexp(part, dim=1, out=log_sum_N[rows])
            torch.sum(part, dim=1, out=sum_N[rows])
            picked_N[rows] = part.gather(1, target_N[rows].unsqueeze(1)).squeeze(1)
        ignored_N = target_N == ignored
        nll_N = (log_sum_N - picked_N).masked_fill_(ignored_N, 0.0)
        smooth_N = (V * log_sum_N - sum_N).masked_fill_(ignored_N, 0.0)
        each = epsilon / (V - 1)
        loss_N = (1 - epsilon - each) * nll_N + each * smooth_N
        ctx.save_for_backward(logits_NV, target_N, log_sum_N, ignored_N)
        ctx.epsilon, ctx.each = epsilon, each
        ctx.mark_non_differentiable(nll_N)
        return loss_N, nll_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        logits_NV, target_N, log_sum_N, ignored_N = ctx.saved_tensors
        V, grad_NV = logits_NV.size(1), logits_NV.detach()
        on_target = 1 - ctx.epsilon - ctx.each
        scale_N = grad_N.masked_fill(ignored_N, 0.0)
        for rows in _parts(grad_NV):
            part, scale = grad_NV[rows].float(), scale_N[rows].unsqueeze(1)  # of float32 the same memory
            part.sub_(log_sum_N[rows].unsqueeze(1)).exp_()  # the probabilities
            part.mul_(scale * (on_target + ctx.each * V)).sub_(scale * ctx.each)
            part.scatter_add_(1, target_N[rows].unsqueeze(1), scale * -on_target)
            if part.dtype != grad_NV.dtype:
                grad_NV[rows] = part
        return grad_NV, None, None, None


def _parts(logits_NV: Tensor) -> Iterator[slice]:
    """Rows to look at together: all of them on a GPU."""
    N, V = logits_NV.shape
    step = max(1, VALUES_AT_ONCE // V) if logits_NV.device.type == "cpu" else max(N, 1)
    return (slice(start, min(start + step, N)) for start in range(0, N, step))
