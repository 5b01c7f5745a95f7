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
from smoe_mt.moe.kernels.all_experts import takes_all
from smoe_mt.moe.kernels.available import no_place_for_triton, triton_refuses
from smoe_mt.moe.kernels.select import bind_experts, compute_dtype
from smoe_mt.moe.kernels.triton_block.records import Operands
from smoe_mt.moe.kernels.triton_block.settings import Settings
from smoe_mt.moe.routed import ExpertOutputMask, RoutedOptions, computed_again
from smoe_mt.moe.routers.base import Router, Weighting, least_choices
from smoe_mt.moe.routers.gate import Gate
from smoe_mt.moe.routers.top_k import TopK

logger = logging.getLogger(__name__)
ACTIVATIONS = ("relu", "gelu", "silu")
LOSSES = ("balance", "z")  # of a gate, in the operator's order


@dataclass(frozen=True)
class BlockParts:
    """A block as a kernel for whole blocks sees it.

    first_experts  number of the first expert that each router sees
    norms          one per router where tokens go from gate to gate; none for a plain layer
    next_gate      int64 [all experts], the gate after each expert; None for a plain layer
    dropout        on y, before the residual
    refusal        why no such kernel computes it; None: nothing is known that speaks against it
    """

    bank: ExpertBank
    routers: Sequence[Router]
    first_experts: tuple[int, ...]
    options: RoutedOptions
    mask: ExpertOutputMask
    norms: Sequence[nn.LayerNorm] = ()
    next_gate: Tensor | None = None
    dropout: float = 0.0
    refusal: str | None = None


def fused_pass(
    parts: BlockParts, x: Tensor, padding_mask: Tensor | None, backend: str
) -> tuple[Tensor, Routing] | None:
    """y and the routing, or None where other kernels must compute: x [..., D], padding_mask bool [...] or None.

    y is 0 at padding without norms, and x with them.

    Raises:
        UserError: ``triton`` was asked for, and these sizes or this precision can be computed by other backends alone.
    """
    return _run(parts, x, padding_mask) if fuses(parts, x, backend) else None


def may_fuse(x: Tensor, backend: str) -> bool:
    """Whether ``triton`` is asked for where ``x`` lies, by name or by ``auto``."""
    return backend == "triton" or (backend == "auto" and x.device.type == "cuda")


def kernel_name(parts: BlockParts, x: Tensor, backend: str) -> str:
    """Which kernel computes ``x``."""
    if fuses(parts, x, backend):
        return "triton"
    return bind_experts(parts.bank, x, backend, choices=least_choices(parts.routers[0])).kernel


def fuses(parts: BlockParts, x: Tensor, backend: str) -> bool:
    """Whether ``triton`` computes ``x``. Where it was asked for and cannot, a line says why, once; so with ``auto`` where
    the machine is the reason.

    Raises:
        UserError: as ``fused_pass``.
    """
    if not may_fuse(x, backend):
        return False
    refusal, missing = _block_refuses(parts), None
    if refusal is None:
        wrong = _sizes_refuse(parts, compute_dtype(x))
        if wrong and backend == "triton":
            raise UserError(_not_here(wrong))
        missing = _missing(x.device)
        refusal = wrong or missing
    if refusal is None:
        few = backend == "auto" and takes_all(parts.bank, x, _selection(parts).k, fused=True)
        return x.numel() > 0 and not few
    if backend == "triton" or missing:
        _say_once(f"backend {backend}: {refusal}; computing with another backend")
    return False


def check_sizes(parts: BlockParts, backend: str) -> None:
    """As a block is built: UserError where ``triton`` is asked for and cannot compute these sizes in any precision."""
    if backend == "triton" and _block_refuses(parts) is None:
        wrong = _sizes_refuse(parts, torch.float32)
        if wrong:
            raise UserError(_not_here(wrong))


def _sizes_refuse(parts: BlockParts, dtype: torch.dtype) -> str | None:
    """``triton_refuses`` of a block of FFNs."""
    assert isinstance(parts.bank, FFNBank)
    visible = max(router.num_experts for router in parts.routers)
    return triton_refuses(dtype, parts.bank.embed_dim, parts.bank.ffn_dim, visible)


def _not_here(reason: str) -> str:
    return f"backend triton does not work here: {reason}; choose auto, grouped or loop"


@cache
def _say_once(line: str) -> None:
    logger.warning(line)


def _block_refuses(parts: BlockParts) -> str | None:
    """What in the block's kind only the other backends compute."""
    if parts.refusal is not None:
        return parts.refusal
    if not isinstance(parts.bank, FFNBank) or parts.bank.activation not in ACTIVATIONS:
        return f"{type(parts.bank).__name__} holds no FFNs that it knows"
    if parts.bank.remote is not None:
        return "experts are sharded over ranks"
    for router in parts.routers:
        refusal = _gate_refuses(router)
        if refusal is not None:
            return f"{router.where} {refusal}"
    gates = [cast(Gate, router) for router in parts.routers]
    if len({(gate.in_force(), gate.loss_names, gate.bias is None, gate.selection_bias is None) for gate in gates}) > 1:
        return "its gates are set in different ways"
    return None


def _gate_refuses(router: Router) -> str | None:
    """What in a gate only the other backends compute."""
    if router.debug:
        return "is checked in debug"
    if type(router) is not Gate:
        return "has scores of its own"
    if router.listener is not None:
        return "tells its choices"
    selection, weighting = router.in_force()
    if not isinstance(selection, TopK) or selection.k > 2:
        return "selects by other rules than top-1 and top-2"
    if weighting is not Weighting.RAW and (weighting is not Weighting.RENORMALISED or selection.k == 1):
        return "weighs choices in another way"
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
    norms, dtype = parts.norms, compute_dtype(x)
    gates = [cast(Gate, router) for router in parts.routers]
    x_ND = x.reshape(-1, x.size(-1))
    given = Operands(
        x=x_ND if norms else x_ND.to(dtype),
        padding=None if padding_mask is None else padding_mask.reshape(-1),
        next_gate=gates[0].weight if parts.next_gate is None else parts.next_gate,
        seeds=None,
        orders=[gate.selection_bias for gate in gates if gate.selection_bias is not None],
        gates=[gate.weight for gate in gates],
        gate_biases=[gate.bias for gate in gates if gate.bias is not None],
        norms=[weight for norm in norms for weight in (norm.weight, norm.bias)],
        experts=list(parts.bank.weights(dtype)),
    )
    settings, draws = _settings_of(parts)
    y_ND, losses, entropy, visits_N, loads = run_block(given, settings, draws)
    if gates[0].training and gates[0].statistic_names and not computed_again():
        with torch.no_grad():
            for gate, load in zip(gates, loads, strict=True):
                gate.load += load[0]
    reached: int | Tensor = len(loads)
    if parts.options.variant == "release" and len(loads) > 1:
        reached = torch.stack([load[2].any() for load in loads]).sum().clamp(min=1)
    means = dict(zip(LOSSES, (losses.sum(dim=0) / reached).unbind(), strict=True))
    routing = Routing(
        losses={name: means[name] for name in gates[0].loss_names},
        visits=visits_N.view(x.shape[:-1]),
        load=tuple(GateLoad(*load.unbind()) for load in loads),
        entropy=entropy.unbind(),
        units_of_visit=_selection(parts).k * parts.bank.ffn_dim,
    )
    return y_ND.view(x.shape), routing


def _selection(parts: BlockParts) -> TopK:
    return cast(TopK, parts.routers[0].in_force()[0])


def _settings_of(parts: BlockParts) -> tuple[str, bool]:
    """What the operator is told besides tensors, and whether anything is drawn."""
    norms, options, gate, selection = parts.norms, parts.options, parts.routers[0], _selection(parts)
    assert isinstance(parts.bank, FFNBank)
    gumbel = selection.second_choice == "gumbel" and selection.k > 1
    drawn = (parts.dropout, options.expert_dropout, parts.mask.p) if gate.training else (0.0, 0.0, 0.0)
    text = _settings(
        parts.first_experts,
        selection.k,
        len(norms) > 0,
        options.capacity_factor if gate.training else 0.0,
        options.variant == "release",
        parts.bank.activation,
        gate.in_force()[1] is Weighting.RENORMALISED,
        "z" in gate.loss_names,
        gumbel,
        *drawn,
        1.0 if gate.training else 1.0 - parts.mask.p,
        norms[0].eps if norms else 0.0,
    )
    return text, gumbel or max(drawn) > 0
