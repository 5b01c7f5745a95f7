"""Blocks that one operator computes from end to end, backend ``triton``: which ones, and from their parts to Routing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.moe.block import GateLoad, Routing
from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.experts.ffn import FFNBank
from smoe_mt.moe.kernels.available import no_place_for_triton, triton_refuses
from smoe_mt.moe.kernels.select import bind_experts, compute_dtype
from smoe_mt.moe.kernels.triton_block.records import Operands
from smoe_mt.moe.kernels.triton_block.settings import Settings
from smoe_mt.moe.routed import ExpertOutputMask, RoutedOptions
from smoe_mt.moe.routers.base import Router, Weighting
from smoe_mt.moe.routers.gate import Gate
from smoe_mt.moe.routers.top_k import TopK

logger = logging.getLogger(__name__)
ACTIVATIONS = ("relu", "gelu", "silu")


@dataclass(frozen=True)
class BlockParts:
    """A block as a kernel for whole blocks sees it.

    first_experts  number of the first expert that each router sees
    norms          one per router where tokens go from gate to gate; none for a plain layer
    next_gate      int64 [all experts], the gate after each expert; None for a plain layer
    dropout        on y, before the residual
    """

    bank: ExpertBank
    routers: Sequence[Router]
    first_experts: tuple[int, ...]
    options: RoutedOptions
    mask: ExpertOutputMask
    norms: Sequence[nn.LayerNorm] = ()
    next_gate: Tensor | None = None
    dropout: float = 0.0


def fused_pass(
    parts: BlockParts, x: Tensor, padding_mask: Tensor | None, backend: str
) -> tuple[Tensor, Routing] | None:
    """y and the routing, or None where other kernels must compute: x [..., D], padding_mask bool [...] or None.

    y is 0 at padding without norms, and x with them.

    Raises:
        UserError: ``triton`` was asked for, and these sizes or this precision can be computed by other backends alone.
    """
    return _run(parts, x, padding_mask) if fuses(parts, x, backend) else None


def kernel_name(parts: BlockParts, x: Tensor, backend: str) -> str:
    """Which kernel computes ``x``."""
    return "triton" if fuses(parts, x, backend) else bind_experts(parts.bank, x, backend).kernel


def fuses(parts: BlockParts, x: Tensor, backend: str) -> bool:
    """Whether ``triton`` computes ``x``; where it was asked for and cannot, a line says why, once.

    Raises:
        UserError: as ``fused_pass``.
    """
    if backend not in ("triton", "auto") or (backend == "auto" and x.device.type != "cuda"):
        return False
    refusal = _block_refuses(parts)
    if refusal is None and isinstance(parts.bank, FFNBank):
        visible = max(router.num_experts for router in parts.routers)
        wrong = triton_refuses(compute_dtype(x), parts.bank.embed_dim, parts.bank.ffn_dim, visible)
        if wrong and backend == "triton":
            raise UserError(f"backend triton does not work here: {wrong}; choose auto, grouped or loop")
        refusal = wrong or _missing(x.device)
    if refusal is None:
        return x.numel() > 0
    if backend == "triton":
        _say_once(f"backend triton: {refusal}; computing with another backend")
    return False


@cache
def _say_once(line: str) -> None:
    logger.warning(line)


def _block_refuses(parts: BlockParts) -> str | None:
    """What in the block's kind only the other backends compute."""
    if not isinstance(parts.bank, FFNBank) or parts.bank.activation not in ACTIVATIONS:
        return f"{type(parts.bank).__name__} holds no FFNs that it knows"
    if parts.bank.remote is not None:
        return "experts are sharded over ranks"
    for router in parts.routers:
        if type(router) is not Gate or router.debug:
            return f"{router.where} is checked in debug" if router.debug else f"{router.where} has scores of its own"
        if router.bias is not None:
            return f"{router.where} has a bias"
        if router.listener is not None:
            return f"{router.where} tells its choices"
        if router.statistic_names:
            return f"{router.where} is balanced by a bias or has other state of its own"
        if router.loss_names != Router.loss_names:
            return f"{router.where} has other losses than the balance loss"
        selection, weighting = router.in_force()
        if not isinstance(selection, TopK) or selection.k > 2:
            return f"{router.where} selects by other rules than top-1 and top-2"
        if weighting is not (Weighting.RAW if selection.k == 1 else Weighting.RENORMALISED):
            return f"{router.where} weighs choices in another way"
    return None


@cache
def _text_of(settings: Settings) -> str:
    return settings.text()


def _settings(*values: Any) -> str:
    """``Settings`` of these values as an operator takes it."""
    return _text_of(Settings(*values))


def _missing(device: torch.device) -> str | None:
    """``no_place_for_triton``."""
    return no_place_for_triton(device)


# As torch.compiler.assume_constant_result does, which would load the compiler here.
for _constant in (_settings, _missing):
    setattr(_constant, "_dynamo_marked_constant", True)  # noqa: B010


def _run(parts: BlockParts, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Routing]:
    from smoe_mt.moe.kernels.triton_block.operator import run_block

    assert isinstance(parts.bank, FFNBank)
    norms, options, dtype = parts.norms, parts.options, compute_dtype(x)
    training = parts.routers[0].training
    selection = parts.routers[0].in_force()[0]
    assert isinstance(selection, TopK)
    gumbel = selection.second_choice == "gumbel" and selection.k > 1
    release = options.variant == "release"
    drawn = (parts.dropout, options.expert_dropout, parts.mask.p) if training else (0.0, 0.0, 0.0)
    settings = _settings(
        parts.first_experts,
        selection.k,
        len(norms) > 0,
        options.capacity_factor if training else 0.0,
        release,
        parts.bank.activation,
        gumbel,
        *drawn,
        1.0 if training else 1.0 - parts.mask.p,
        norms[0].eps if norms else 0.0,
    )
    x_ND = x.reshape(-1, x.size(-1))
    gates = [cast(Gate, router) for router in parts.routers]
    given = Operands(
        x=x_ND if norms else x_ND.to(dtype),
        padding=None if padding_mask is None else padding_mask.reshape(-1),
        next_gate=gates[0].weight if parts.next_gate is None else parts.next_gate,
        seeds=None,
        gates=[gate.weight for gate in gates],
        norms=[weight for norm in norms for weight in (norm.weight, norm.bias)],
        experts=list(parts.bank.weights(dtype)),
    )
    y_ND, balance, entropy, visits_N, loads = run_block(given, settings, gumbel or max(drawn) > 0)
    if len(loads) == 1:
        loss = balance[0]
    elif release:  # the mean over the gates that were reached
        loss = balance.sum() / torch.stack([load[2].any() for load in loads]).sum().clamp(min=1)
    else:
        loss = balance.mean()
    routing = Routing(
        losses={"balance": loss},
        visits=visits_N.view(x.shape[:-1]),
        load=tuple(GateLoad(*load.unbind()) for load in loads),
        entropy=entropy.unbind(),
        units_of_visit=selection.k * parts.bank.ffn_dim,
    )
    return y_ND.view(x.shape), routing
