"""What a block asks of its experts. A new kind of expert is a subclass of ``ExpertBank``, or of ``FFNBank`` (``ffn.py``)
if its experts compute W_out act(W_in x + b_in) + b_out with equal sizes: those have the fast kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from smoe_mt.moe.dispatch import Plan

#: Where a bank keeps what all of its experts share: ``experts.shared.NAME``. All other parameters are stacks [E, ...].
SHARED = "shared"


class BoundExperts(Protocol):
    """The experts of a block for one pass, in one precision, wherever they are computed.

    kernel             its name
    never_syncs        nothing may be read back from the device: plans have a row for every slot
    skips_empty_gates  a gate without tokens need not be visited
    """

    @property
    def kernel(self) -> str: ...

    @property
    def never_syncs(self) -> bool: ...

    @property
    def skips_empty_gates(self) -> bool: ...

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        """y = sum_k weights_TK[:, k] expert(x) over the served slots; the plan's expert 0 is ``first_expert``; [T, D]."""
        ...


@dataclass(frozen=True)
class AroundExperts:
    """Base of what stands around bound experts and goes through gates as they do. A subclass says what is done with the tokens."""

    experts: BoundExperts

    @property
    def kernel(self) -> str:
        return self.experts.kernel

    @property
    def never_syncs(self) -> bool:
        return self.experts.never_syncs

    @property
    def skips_empty_gates(self) -> bool:
        return self.experts.skips_empty_gates


class RemoteBinder(Protocol):
    """What a bank whose experts are sharded over ranks has in ``remote`` (``distributed.expert_parallel``)."""

    def bind(self, bank: ExpertBank, dtype: torch.dtype, backend: str, dropout: float) -> BoundExperts: ...


class ExpertBank(nn.Module):
    """``num_experts`` experts that map rows [S, D] to rows [S, D].

    Each parameter is a stack with one entry an expert, [E, ...], or one for each of some experts (``members``); what experts
    share lies in a submodule ``shared``.

    num_experts    of the block, wherever they live
    local_experts  numbers of those whose parameters are here; None: all of them
    remote         how to reach the others; None: they are all here
    """

    def __init__(self, num_experts: int, embed_dim: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.embed_dim = embed_dim
        self.local_experts: Sequence[int] | None = None
        self.remote: RemoteBinder | None = None

    # --- what a new bank must say ---

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Hidden units of each expert of the block, [E]."""
        raise NotImplementedError

    def expert_output(self, e: int, rows_SD: Tensor) -> Tensor:
        """Rows through the e-th expert that is here, in the rows' precision, differentiable; [S, D]."""
        raise NotImplementedError

    # --- what follows from it, unless a bank knows better ---

    def flops_per_row(self) -> tuple[int, ...]:
        """FLOPs of a row's forward pass through each expert, [E]: two products of D x F, by default."""
        return tuple(4 * self.embed_dim * size for size in self.hidden_sizes)

    @property
    def uniform_size(self) -> int | None:
        """Hidden units of any expert; None where they differ."""
        sizes = set(self.hidden_sizes)
        return sizes.pop() if len(sizes) == 1 else None

    def stacks(self) -> dict[str, nn.Parameter]:
        """The parameters with an entry for each local expert, by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith(f"{SHARED}.")}

    def members(self, name: str) -> Sequence[int]:
        """Numbers of the block's experts that a stack has entries of, in their order, wherever they live; by default all."""
        return range(self.num_experts)

    def parameters_of_experts(self) -> tuple[int, ...]:
        """Parameters that belong to each expert of the block alone, [E]."""
        totals = [0] * self.num_experts
        for name, stack in self.stacks().items():
            for e in self.members(name):
                totals[e] += stack.shape[1:].numel()
        return tuple(totals)

    def slices(self, e: int) -> Mapping[str, Tensor]:
        """What belongs to the e-th local expert alone, by parameter name."""
        number = e if self.local_experts is None else self.local_experts[e]
        here = {name: self._members_here(name) for name in self.stacks()}
        return {name: stack[here[name].index(number)] for name, stack in self.stacks().items() if number in here[name]}

    def _members_here(self, name: str) -> list[int]:
        """Of the experts that a stack has entries of, those that are here."""
        members = self.members(name)
        return [e for e in members if self.local_experts is None or e in self.local_experts]

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        """State of a bank whose experts all compute this FFN: [F, D], [F], [D, F], [D].

        Raises:
            ValueError: an FFN that these experts cannot compute.
        """
        raise ValueError(f"{type(self).__name__} cannot start from a dense FFN")

    # --- sharding over ranks ---

    def keep(self, numbers: Sequence[int], remote: RemoteBinder) -> None:
        """Keep these experts alone. Their parameters get the mark ``expert``: no other rank has the same ones."""
        own = set(numbers)
        for name, stack in self.stacks().items():
            owner, _, leaf = name.rpartition(".")
            places = [place for place, e in enumerate(self.members(name)) if e in own]
            kept = nn.Parameter(stack.detach()[places], requires_grad=stack.requires_grad)
            kept.expert = True  # type: ignore[attr-defined]
            setattr(self.get_submodule(owner), leaf, kept)
        self.local_experts, self.remote = tuple(numbers), remote

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Of a whole block's stacks a rank takes its own."""
        if self.local_experts is not None:
            own = set(self.local_experts)
            for name in self.stacks():
                given, members = state_dict.get(prefix + name), self.members(name)
                if given is not None and given.size(0) == len(members):
                    places = [place for place, e in enumerate(members) if e in own]
                    state_dict[prefix + name] = given[places]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
