"""Expert FFNs, FFN_e(x) = W_out act(W_in x + b_in) + b_out (paper: eq. 1): the banks with fast kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.moe.experts.activations import activation as known_activation
from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.experts.prepacked import PackedWeights

FFNWeights = tuple[Tensor, Tensor, Tensor, Tensor]


class FFNs(ExpertBank):
    """Expert FFNs of any sizes, which the kernel ``loop`` computes. A subclass writes ``weight_stacks``.

    Raises:
        ValueError: sizes that are not positive, or an unknown activation.
    """

    def __init__(self, num_experts: int, embed_dim: int, smallest: int, activation: str = "relu") -> None:
        super().__init__(num_experts, embed_dim)
        if min(num_experts, embed_dim, smallest) < 1:
            raise ValueError(
                f"experts need positive sizes, not num_experts={num_experts}, embed_dim={embed_dim}, ffn_dim={smallest}"
            )
        known_activation(activation)
        self.activation = activation
        self.packed = PackedWeights()

    def weight_stacks(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Of each size w_in [E', F', D], b_in [E', F'], w_out [E', D, F'], b_out [E', D], in ``dtype``, differentiable:
        of the local experts of this size."""
        raise NotImplementedError

    def places(self) -> Sequence[tuple[int, int]] | None:
        """Of each local expert, the number of its size among ``weight_stacks``, and its entry there; None: all in one."""
        return None

    @property
    def version(self) -> tuple[int, ...]:
        """Changes whenever a parameter does."""
        return tuple(number for p in self.parameters() for number in (p._version, p.data_ptr()))

    def train(self, mode: bool = True) -> FFNs:
        """Training needs the memory of the packed weights."""
        if mode:
            self.packed.drop()
        super().train(mode)
        return self


class FFNBank(FFNs):
    """Expert FFNs of one size, whose weights can be had as four stacks, stored or computed. A subclass writes ``weights``.

    Raises:
        ValueError: sizes that are not positive, or an unknown activation.
    """

    def __init__(self, num_experts: int, embed_dim: int, ffn_dim: int, activation: str = "relu") -> None:
        super().__init__(num_experts, embed_dim, ffn_dim, activation)
        self.ffn_dim = ffn_dim

    def weight_stacks(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return self.weights(dtype)

    def weights(self, dtype: torch.dtype) -> FFNWeights:
        """w_in [E, F, D], b_in [E, F], w_out [E, D, F], b_out [E, D] of the local experts, in ``dtype``, differentiable.

        A bank without biases returns zeros for them.
        """
        raise NotImplementedError

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return (self.ffn_dim,) * self.num_experts

    @property
    def uniform_size(self) -> int:
        return self.ffn_dim

    def expert_output(self, e: int, rows_SD: Tensor) -> Tensor:
        """As the kernels compute it, by autograd: what they are compared with."""
        w_in, b_in, w_out, b_out = (weight[e] for weight in self.weights(rows_SD.dtype))
        hidden = known_activation(self.activation).whole(torch.addmm(b_in, rows_SD, w_in.t()))
        return torch.addmm(b_out, hidden, w_out.t())


class Experts(FFNBank):
    """The weights themselves as parameters: ``w_in`` [E, F, D], ``b_in`` [E, F], ``w_out`` [E, D, F], ``b_out`` [E, D].

    Each expert starts as an ``nn.Linear`` pair does, U(-1/sqrt(fan_in), 1/sqrt(fan_in)). ``bias=False``: without b_in, b_out;
    ``bias_out=False``: without b_out.
    """

    def __init__(
        self,
        num_experts: int,
        embed_dim: int,
        ffn_dim: int,
        activation: str = "relu",
        bias: bool = True,
        bias_out: bool = True,
    ) -> None:
        super().__init__(num_experts, embed_dim, ffn_dim, activation)
        self.w_in = nn.Parameter(torch.empty(num_experts, ffn_dim, embed_dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, ffn_dim)) if bias else None
        self.w_out = nn.Parameter(torch.empty(num_experts, embed_dim, ffn_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, embed_dim)) if bias and bias_out else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight, bias in ((self.w_in, self.b_in), (self.w_out, self.b_out)):
            bound = 1 / math.sqrt(weight.size(-1))
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def weights(self, dtype: torch.dtype) -> FFNWeights:
        b_in = self.w_in.new_zeros(self.w_in.shape[:2]) if self.b_in is None else self.b_in
        b_out = self.w_out.new_zeros(self.w_out.shape[:2]) if self.b_out is None else self.b_out
        return self.w_in.to(dtype), b_in.to(dtype), self.w_out.to(dtype), b_out.to(dtype)

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        given = {"w_in": w_in, "b_in": b_in, "w_out": w_out, "b_out": b_out}
        state: dict[str, Any] = {}
        for name, stack in self.stacks().items():
            if given[name].shape != stack.shape[1:]:
                raise ValueError(
                    f"{name} is {tuple(given[name].shape)}, but these experts have {tuple(stack.shape[1:])}"
                )
            state[name] = given[name].to(stack.dtype).expand_as(stack).clone()
        return state


def experts_or(bank: ExpertBank | None, num_experts: int, embed_dim: int, ffn_dim: int, activation: str) -> ExpertBank:
    """The experts of a block: the bank it was given, by default ``Experts``.

    Raises:
        ValueError: a bank with another number of experts, or for tokens of another size.
    """
    if bank is None:
        return Experts(num_experts, embed_dim, ffn_dim, activation)
    if (bank.num_experts, bank.embed_dim) != (num_experts, embed_dim):
        raise ValueError(
            f"the block has {num_experts} experts and embed_dim={embed_dim}, "
            f"its {type(bank).__name__} {bank.num_experts} and embed_dim={bank.embed_dim}"
        )
    return bank
