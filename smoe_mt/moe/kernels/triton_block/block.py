"""A whole block as one function with a gradient: all its gates forward, all its gates backward, nothing read back.

A gate is five to eight launches forward and seven to fifteen backward; most are five, or six where not all tokens are there, and
eight or nine. Kept for the way back are the inputs of the gates, what the last norm of each token gave, what the gates decided, and
one activation of each; no row is gathered in memory.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from smoe_mt.moe.kernels.triton_block.backward import gate_backward, norm_again
from smoe_mt.moe.kernels.triton_block.forward import Walk, gate_forward
from smoe_mt.moe.kernels.triton_block.gate import Gate
from smoe_mt.moe.kernels.triton_block.records import Experts, Operands, Results, Saved, flat, kept_of, sizes, unflat
from smoe_mt.moe.kernels.triton_block.settings import Settings


def block_forward(given: Operands, settings: str, keep: bool) -> Results:
    """All gates, one after the other; ``keep``: a backward pass follows."""
    s = Settings.of(settings)
    walk = Walk.empty(given, s.strata)
    inputs = [given.x, *walk.later]
    loads, passes = [], []
    for i, x in enumerate(inputs):
        gate = Gate(i, given, s)
        launch = gate.launcher(given.tensors(), keep, given.packs(i))
        passed = gate_forward(gate, launch, x, given, walk, keep)
        loads.append(passed.load)
        if keep:
            passes.append(passed)
    return walk.results(loads, kept_of(passes))


def block_backward(saved: Saved, grad: Tensor, grad_losses: Tensor, settings: str, reuse: bool) -> list[Tensor]:
    """Gradients of ``Operands.with_gradients`` from those of y [T, D] and of the losses fp32 [gates, 2].

    reuse  what was kept may be overwritten
    """
    s, given = Settings.of(settings), saved.operands()
    grads = Experts(*(torch.empty_like(weight) for weight in given.experts))
    inputs = [saved.x, *saved.later]
    normed = saved.normed if reuse or len(inputs) == 1 else saved.normed.clone()
    grad_gates: list[Tensor] = []
    grad_biases: list[Tensor] = []
    grad_norms: list[Tensor] = []
    first_added, room = grads.w_in.size(0), None
    for i in reversed(range(len(inputs))):
        gate = Gate(i, given, s)
        passed = saved.passed(i)
        launch = gate.launcher([grad, *given.tensors()], "backward", grad.dtype, passed.packed)
        seen = normed if gate.norm else inputs[i]
        if gate.norm and i < len(inputs) - 1:
            norm_again(gate, launch, inputs[i], saved.next_gate, passed, normed)
        found = gate_backward(gate, launch, grad, grad_losses, inputs[i], seen, passed, grads, first_added, reuse, room)
        room = passed.kept.view(-1) if reuse else None
        grad, first_added = found.x, gate.first
        grad_gates.insert(0, found.weight)
        if found.bias is not None:
            grad_biases.insert(0, found.bias)
        if found.norm is not None:
            grad_norms = [*found.norm, *grad_norms]
    return [grad, *grad_gates, *grad_biases, *grad_norms, *grads]


def may_come_back() -> bool:
    """Whether another backward pass through the same graph may follow the one that runs."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return asked is None or bool(asked())


class BlockFunction(torch.autograd.Function):
    """``block_forward`` with its gradient."""

    @staticmethod
    def forward(ctx: Any, given: Operands, settings: str, *_: Tensor) -> tuple[Tensor, ...]:
        """After ``given`` and ``settings``: ``given.with_gradients()``, for autograd to see. Gives (y, losses, entropy, visits, *loads)."""
        out = block_forward(given, settings, keep=True)
        saved = Saved.of(given, out)
        ctx.settings, ctx.sizes, ctx.output = settings, sizes(saved), out.y.dtype
        ctx.save_for_backward(*flat(saved))
        ctx.mark_non_differentiable(out.entropy, out.visits, *out.loads)
        ctx.set_materialize_grads(False)
        return out.y, out.losses, out.entropy, out.visits, *out.loads

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_losses: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        saved = Saved(*cast(Any, unflat(ctx.saved_tensors, ctx.sizes)))
        if grad is None:
            grad = torch.zeros(saved.x.shape, dtype=ctx.output, device=saved.x.device)
        if grad_losses is None:
            grad_losses = torch.zeros(len(saved.gates), 2, dtype=torch.float32, device=saved.x.device)
        reuse = not may_come_back()
        return None, None, *block_backward(saved, grad.contiguous(), grad_losses.contiguous(), ctx.settings, reuse)
