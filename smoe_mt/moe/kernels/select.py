"""Which kernel computes a block's experts, in which precision, behind one interface.

    bound = bind_experts(bank, x, backend)                 once per pass through the block
    y_TD = bound(x_TD, weights_TK, plan, first_expert)     at each gate

``loop``     one product per expert. Reads the number of rows of each expert back from the device.
``grouped``  one grouped product for all. Reads nothing back, so on a GPU the host never waits.
``triton``   the whole block as one operator of our own Triton kernels, on a GPU (``fused``). Reads nothing back. Blocks that
             it does not compute get grouped on a GPU, loop elsewhere, and a line says so, once.
``auto``     triton on a GPU, where it was the fastest at every size measured (docs/cost.md); else loop, which is the faster
             one on a CPU, where torch's grouped product is itself a loop over experts. For a few tokens in a search on a GPU
             ``all_experts``, if its rule says so.

FFNs of several sizes are computed by ``loop``, banks of other experts one by one (``any_bank``). ``bound.kernel`` names what
runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts.activations import activation
from smoe_mt.moe.experts.base import BoundExperts, ExpertBank
from smoe_mt.moe.experts.ffn import FFNBank, FFNs
from smoe_mt.moe.experts.prepacked import PackedWeights
from smoe_mt.moe.kernels.all_experts import ALL_EXPERTS, all_experts_ffn, takes_all
from smoe_mt.moe.kernels.any_bank import bind_any_bank, one_size_only
from smoe_mt.moe.kernels.grouped import grouped_call, grouped_ffn, grouped_refuses
from smoe_mt.moe.kernels.loop import LoopCall, Places, WeightGradients, Weights, experts_of, loop_ffn, share_gradients
from smoe_mt.moe.linear import PackedLinear, packable

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


def choose_backend(backend: str, dtype: torch.dtype, embed_dim: int, ffn_dim: int, device: str = "cpu") -> str:
    """``loop`` or ``grouped``: ``backend`` itself, or what computes where ``auto`` and ``triton`` do not fuse the block.

    Raises:
        UserError: ``grouped`` where it cannot compute.
    """
    refusal = grouped_refuses(dtype, embed_dim, ffn_dim)
    if backend == "grouped" and refusal:
        raise UserError(f"backend grouped does not work here: {refusal}; choose auto or loop")
    if backend == "triton":
        return "grouped" if device == "cuda" and not refusal else "loop"
    return "loop" if backend == "auto" else backend


def bind_experts(bank: ExpertBank, x: Tensor, backend: str, dropout: float = 0.0, choices: int = 1) -> BoundExperts:
    """Get a bank ready for one pass of ``x`` through its block; ``dropout`` as it applies now.

    choices  experts that each token chooses at a gate, at least

    Raises:
        ValueError: a backend that cannot compute this bank.
    """
    dtype = compute_dtype(x)
    if backend == "auto" and takes_all(bank, x, choices):
        assert isinstance(bank, FFNBank)
        return BoundFFNs(bank, bank.weights(dtype), ALL_EXPERTS, 0.0)
    if bank.remote is not None:
        return bank.remote.bind(bank, dtype, backend, dropout)
    return bind_local(bank, dtype, backend, dropout)


def bind_local(bank: ExpertBank, dtype: torch.dtype, backend: str, dropout: float = 0.0) -> BoundExperts:
    """The experts that are here, for one pass in ``dtype``; ``dropout`` as it applies now.

    Raises:
        ValueError: a backend that cannot compute this bank.
    """
    if isinstance(bank, FFNs):
        return bind_ffn(bank, dtype, backend, dropout)
    return bind_any_bank(bank, dtype, backend, dropout)


@dataclass(frozen=True)
class BoundFFNs:
    """Local FFN experts for one pass, their weights in the precision that they compute in.

    never_syncs  nothing may be read back from the device: plans have a row for every slot
    dropout      on each expert's output, before the combination
    packed       the products as they are made ready for evaluation; None in training and where there are none
    places       where each expert's weights are, if there are several sizes
    """

    bank: FFNs
    weights: Weights
    kernel: str
    dropout: float
    sink: WeightGradients | None = None
    packed: PackedWeights | None = None
    places: Places = None
    skips_empty_gates: bool = True

    @property
    def never_syncs(self) -> bool:
        return self.kernel in ("grouped", ALL_EXPERTS)

    def products(self, e: int) -> tuple[PackedLinear, PackedLinear]:
        """Both products of expert ``e``, where they are made ready for evaluation."""
        assert self.packed is not None
        return self.packed.get(e) or self.packed.of(e, *experts_of(self.weights, self.places)[e])

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] FFN_e(x) over the served slots (eq. 6); plan's expert 0 is ``first_expert``; [T, D]."""
        x_TD = x_TD.to(self.weights[0].dtype)
        act = activation(self.bank.activation)
        if self.kernel == ALL_EXPERTS:
            w_in, b_in, w_out, b_out = self.weights
            return all_experts_ffn(x_TD, weights_TK, (w_in, b_in, w_out, b_out), plan, first_expert, act)
        drop_SD = None
        if self.dropout:
            drop_SD = F.dropout(x_TD.new_ones(plan.slot_S.numel(), x_TD.size(1)), self.dropout)
        if self.kernel == "grouped":
            grouped = grouped_call(plan, first_expert, self.weights[0].size(0), act, drop_SD)
            w_in, b_in, w_out, b_out = self.weights
            return grouped_ffn(x_TD, weights_TK, (w_in, b_in, w_out, b_out), grouped)
        counts = plan.served_E.tolist()
        call = LoopCall(plan, counts, first_expert, act, drop_SD, self.sink, self.packed, self.places)
        return loop_ffn(x_TD, weights_TK, self.weights, call)


def bind_ffn(bank: FFNs, dtype: torch.dtype, backend: str, dropout: float = 0.0) -> BoundFFNs:
    """As ``bind_local``, with the kernels for FFNs: ``loop`` for any sizes, ``grouped`` for one."""
    kernel = _kernel_for(bank, dtype, backend)
    weights, places = bank.weight_stacks(dtype), bank.places()
    if kernel == "grouped":
        return BoundFFNs(bank, weights, kernel, dropout)
    if torch.is_grad_enabled():
        sink = WeightGradients(places)
        return BoundFFNs(bank, share_gradients(weights, sink), kernel, dropout, sink, places=places)
    return BoundFFNs(bank, weights, kernel, dropout, packed=_packed(bank, weights), places=places)


def _kernel_for(bank: FFNs, dtype: torch.dtype, backend: str) -> str:
    if isinstance(bank, FFNBank):
        return choose_backend(backend, dtype, bank.embed_dim, bank.ffn_dim, bank_device(bank))
    if backend == "grouped":
        raise UserError(one_size_only(bank))
    return "loop"


def bank_device(bank: ExpertBank) -> str:
    """Kind of device that a bank lies on."""
    return next(bank.parameters()).device.type


def _packed(bank: FFNs, weights: Weights) -> PackedWeights | None:
    """In training weights change with every step, so packing them does not pay."""
    w_in = weights[0]
    if bank.training or not packable(w_in):
        return None
    bank.packed.check(bank.version)
    return bank.packed
