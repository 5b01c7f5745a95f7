"""A block's pass as an operator: in eager mode an autograd function, for torch.compile one that is registered with torch.

``torch.ops.smoe_mt.block`` and ``block_backward`` have fake implementations and a gradient, so that a compiler takes a block as
one node, and that modes which look at operators (a counter of FLOPs) see it. Other eager passes go around them: their
dispatch costs the host more than a block's launches.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from smoe_mt.moe.kernels.triton_block.block import BlockFunction, block_backward, block_forward
from smoe_mt.moe.kernels.triton_block.forward import Walk
from smoe_mt.moe.kernels.triton_block.gate import Gate
from smoe_mt.moe.kernels.triton_block.programs.constants import SEEDS
from smoe_mt.moe.kernels.triton_block.records import Operands, Saved, flat, kept_of, results_of, sizes, unflat
from smoe_mt.moe.kernels.triton_block.settings import Settings

#: ``Operands``, settings and keep; the fields of ``Results`` in a row.
FORWARD = (
    "(Tensor x, Tensor? padding, Tensor next_gate, Tensor? seeds, Tensor[] orders, Tensor[] gates, "
    "Tensor[] gate_biases, Tensor[] norms, Tensor[] experts, str settings, bool keep) -> Tensor[]"
)
#: Gradients of y and of the losses, ``Saved``, settings; ``block_backward``'s results.
BACKWARD = (
    "(Tensor grad, Tensor grad_losses, Tensor x, Tensor next_gate, Tensor? seeds, Tensor[] gates, Tensor[] gate_biases, "
    "Tensor[] norms, Tensor[] experts, Tensor[] loads, Tensor later, Tensor normed, Tensor[] kept, str settings) -> Tensor[]"
)


@torch.library.custom_op("smoe_mt::block", mutates_args=(), schema=FORWARD)
def _block(*args: Any) -> list[Tensor]:
    *given, settings, keep = args
    return cast(list[Tensor], flat(block_forward(Operands(*given), settings, keep)))


@_block.register_fake
def _(*args: Any) -> list[Tensor]:
    *fields, settings, keep = args
    given, s = Operands(*fields), Settings.of(settings)
    passes = [Gate(i, given, s).empty(given.x, given.packs(i), keep) for i in range(len(given.gates))]
    kept = kept_of(passes) if keep else []
    results = Walk.empty(given, s.strata).results([passed.load for passed in passes], kept)
    return cast(list[Tensor], flat(results))


@torch.library.custom_op("smoe_mt::block_backward", mutates_args=(), schema=BACKWARD)
def _block_backward(*args: Any) -> list[Tensor]:
    grad, grad_losses, *fields, settings = args
    saved = Saved(*fields)
    grads = block_backward(saved, grad, grad_losses, settings, False)
    before = 1 + len(saved.gates) + len(saved.gate_biases)
    norms = range(before, before + len(saved.norms))
    # Halves of one tensor each: an operator returns no views.
    return [one.clone() if i in norms else one for i, one in enumerate(grads)]


@_block_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    _grad, _grad_losses, *fields, _settings = args
    return [torch.empty_like(one) for one in Saved(*fields).operands().with_gradients()]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *fields, ctx.settings, _ = inputs
    given = Operands(*fields)
    saved = Saved.of(given, results_of(output, len(given.gates)))
    ctx.sizes, ctx.given = sizes(saved), sizes(given)
    ctx.save_for_backward(*flat(saved))


def _gradients(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    saved = Saved(*cast(Any, unflat(ctx.saved_tensors, ctx.sizes)))
    grad, grad_losses = grads[:2]
    assert grad is not None and grad_losses is not None
    found = torch.ops.smoe_mt.block_backward(grad.contiguous(), grad_losses.contiguous(), *saved, ctx.settings)
    orders = [None] * ctx.given[4]
    of = Operands(*cast(Any, [found[0], None, None, None, orders, *unflat(found[1:], ctx.given[5:])]))
    return *of, None, None


_block.register_autograd(_gradients, setup_context=_keep)


def run_block(given: Operands, settings: str, random: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """(y [T, D], losses fp32 [gates, 2], entropy fp32 [gates], visits int64 [T], a load int64 [3, E] per gate); see ``Results``.

    ``given`` has no seeds: they are drawn here where ``random`` says that anything is; settings as ``Settings.text`` gives them.
    """
    gates = len(given.gates)
    seeds = torch.randint(2**31, (gates * SEEDS.value,), device=given.x.device) if random else None
    given = given._replace(x=given.x.contiguous(), seeds=seeds)
    keep = torch.is_grad_enabled()
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:  # somebody looks at operators
        out = results_of(torch.ops.smoe_mt.block(*given, settings, keep), gates)
    elif keep:
        y, losses, entropy, visits, *loads = BlockFunction.apply(given, settings, *given.with_gradients())
        return y, losses, entropy, visits, loads
    else:
        out = block_forward(given, settings, False)
    return out.y, out.losses, out.entropy, out.visits, out.loads
