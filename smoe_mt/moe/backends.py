"""How the experts of a block are computed: ``loop``, ``grouped``, or ``auto``, the faster one, behind one interface.

    run = ready_local(experts, dtype, backend)     once per pass through the block
    y_TD = run(x_TD, weights_TK, plan, first_expert)   at each gate

``loop``     one product per expert. Reads the number of rows of each expert back from the device.
``grouped``  one grouped product for all. Reads nothing back, so on a GPU the host never waits.
``triton``   the whole block as one operator of our own Triton kernels, on a GPU (``kernels``). Reads nothing back. Where it
             cannot run (no GPU, no triton, experts spread over ranks) loop computes, and a line says so, once.
``auto``     loop: the faster one on a CPU, where torch's grouped product is itself a loop over experts. On a GPU grouped
             has to be asked for: it has not been measured on one yet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.moe.activations import activation
from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.gating import Gate
from smoe_mt.moe.grouped import grouped_call, grouped_ffn, grouped_refuses
from smoe_mt.moe.kernels.available import no_place_for_triton, triton_refuses
from smoe_mt.moe.loop import LoopCall, WeightGradients, Weights, loop_ffn, share_gradients
from smoe_mt.moe.packed import PackedWeights, packable

logger = logging.getLogger(__name__)
BACKENDS = ("auto", "loop", "grouped", "triton")


def check_backend(backend: str) -> None:
    """Raises ValueError for an unknown backend."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}")


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the experts compute in: ``x``'s precision, or autocast's where it is on and ``x`` is float32 or less."""
    kind = x.device.type
    if x.dtype is not torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def choose_backend(backend: str, dtype: torch.dtype, embed_dim: int, ffn_dim: int) -> str:
    """``backend`` itself, or what ``auto`` stands for.

    Raises:
        ValueError: ``grouped`` where it cannot compute.
    """
    refusal = grouped_refuses(dtype, embed_dim, ffn_dim)
    if backend == "grouped" and refusal:
        raise ValueError(f"backend grouped does not work here: {refusal}; choose auto or loop")
    return "grouped" if backend == "grouped" else "loop"


def fuses(backend: str, experts: Experts, gates: Sequence[Gate], x: Tensor) -> bool:
    """Whether the block computes ``x`` [..., D] as one operator of Triton kernels; if it was asked to and cannot, says why, once.

    Raises:
        ValueError: ``triton`` where it does not compute such experts.
    """
    if backend != "triton":
        return False
    ffn_dim, embed_dim = experts.w_in.shape[1:]
    refusal = triton_refuses(compute_dtype(x), embed_dim, ffn_dim, max(gate.visible for gate in gates))
    if refusal:
        raise ValueError(f"backend triton does not work here: {refusal}; choose auto, grouped or loop")
    missing = no_place_for_triton(x.device)
    if experts.ranks is not None:
        missing = "experts are spread over ranks"
    if missing:
        say_once(f"backend triton: {missing}; computing with loop")
        return False
    return x.numel() > 0 and not gates[0].debug


@cache
def say_once(line: str) -> None:
    logger.warning(line)


@dataclass(frozen=True)
class ReadyExperts:
    """The experts for one pass: their weights in the precision that they compute in.

    on_device  nothing may be read back from the device: plans have a row for every slot
    skips_empty_gates  a gate without tokens need not be visited
    dropout    on each expert's output, before the combination
    packed     the weights once more, packed for few rows; None where they are of no use
    """

    experts: Experts
    weights: Weights
    on_device: bool
    dropout: float
    sink: WeightGradients | None = None
    packed: PackedWeights | None = None
    skips_empty_gates: bool = True

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] FFN_e(x) over the served slots (eq. 6); plan's expert 0 is ``first_expert``; [T, D]."""
        x_TD = x_TD.to(self.weights[0].dtype)
        drop_SD = None
        if self.dropout:
            drop_SD = F.dropout(x_TD.new_ones(plan.slot_S.numel(), x_TD.size(1)), self.dropout)
        act = activation(self.experts.activation)
        if self.on_device:
            grouped = grouped_call(plan, first_expert, self.weights[0].size(0), act, drop_SD)
            return grouped_ffn(x_TD, weights_TK, self.weights, grouped)
        counts = plan.served_E.tolist()
        call = LoopCall(plan, counts, first_expert, act, drop_SD, self.sink, self.packed)
        return loop_ffn(x_TD, weights_TK, self.weights, call)


def ready_local(experts: Experts, dtype: torch.dtype, backend: str, dropout: float = 0.0) -> ReadyExperts:
    """Get the experts that this rank has ready for one pass, computing in ``dtype``; ``dropout`` as it applies now.

    Raises:
        ValueError: ``grouped`` where it cannot compute.
    """
    ffn_dim, embed_dim = experts.w_in.shape[1:]
    grouped = choose_backend(backend, dtype, embed_dim, ffn_dim) == "grouped"
    weights = experts.weights(dtype)
    if grouped:
        return ReadyExperts(experts, weights, True, dropout)
    if torch.is_grad_enabled():
        sink = WeightGradients()
        return ReadyExperts(experts, share_gradients(weights, sink), False, dropout, sink)
    return ReadyExperts(experts, weights, False, dropout, packed=_packed(experts, dtype))


def _packed(experts: Experts, dtype: torch.dtype) -> PackedWeights | None:
    """In training weights change with every step, so packing them does not pay."""
    if experts.training or dtype is not torch.float32 or not packable(experts.w_in):
        return None
    experts.packed.check(experts.w_in, experts.w_out)
    return experts.packed
