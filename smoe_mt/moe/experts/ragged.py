"""Expert FFNs of different sizes (HMoE), stored by size: nothing is padded, in memory or in a product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smoe_mt.moe.experts.activations import activation as known_activation
from smoe_mt.moe.experts.ffn import FFNs

#: The parameters of a size, in the order of ``FFNs.weight_stacks``.
STACKS = ("w_in", "b_in", "w_out", "b_out")
#: Sizes are multiples of this where no expert is too small for it: of 16 bytes in half precision, as fast products ask.
MULTIPLE = 8
ROUNDING = 1e-6  # so that a share that is an integer but for rounding is not counted as less


class RaggedExperts(FFNs):
    """Expert e has ``sizes[e]`` hidden units. Experts of one size lie in stacks together, [E', ...], in the order of their numbers.

    Parameters, F being each size that occurs: ``w_in.F`` [E', F, D], ``b_in.F`` [E', F], ``w_out.F`` [E', D, F], ``b_out.F``
    [E', D]. Each expert starts as an ``nn.Linear`` pair does, as those of ``Experts``. A rank that has no expert of a size keeps
    empty stacks of it, so that parameters have the same numbers on all ranks.

    Raises:
        ValueError: sizes that are not positive, or an unknown activation.
    """

    def __init__(self, embed_dim: int, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__(len(sizes), embed_dim, min(sizes, default=0), activation)
        self.sizes = tuple(sizes)
        self.numbers = {size: tuple(e for e, own in enumerate(sizes) if own == size) for size in sorted(set(sizes))}
        shapes: dict[str, dict[str, nn.Parameter]] = {name: {} for name in STACKS}
        for size, numbers in self.numbers.items():
            for name, shape in zip(STACKS, ((size, embed_dim), (size,), (embed_dim, size), (embed_dim,))):
                shapes[name][str(size)] = nn.Parameter(torch.empty(len(numbers), *shape))
        self.w_in, self.b_in, self.w_out, self.b_out = (nn.ParameterDict(shapes[name]) for name in STACKS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for size in map(str, self.numbers):
            for weight, bias in ((self.w_in[size], self.b_in[size]), (self.w_out[size], self.b_out[size])):
                bound = 1 / math.sqrt(weight.size(-1))
                nn.init.uniform_(weight, -bound, bound)
                nn.init.uniform_(bias, -bound, bound)

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        return self.sizes

    def members(self, name: str) -> Sequence[int]:
        return self.numbers[int(name.rpartition(".")[2])]

    def weight_stacks(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name)[str(size)].to(dtype) for size in self.numbers for name in STACKS)

    def places(self) -> Sequence[tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for number, size in enumerate(self.numbers):
            for place, e in enumerate(self._members_here(f"w_in.{size}")):
                found[e] = (number, place)
        return [found[e] for e in sorted(found)]

    def expert_output(self, e: int, rows_SD: Tensor) -> Tensor:
        """As the kernel computes it, by autograd: what it is compared with."""
        number, place = self.places()[e]
        stacks = self.weight_stacks(rows_SD.dtype)[len(STACKS) * number :]
        w_in, b_in, w_out, b_out = (stack[place] for stack in stacks[: len(STACKS)])
        hidden = known_activation(self.activation).whole(torch.addmm(b_in, rows_SD, w_in.t()))
        return torch.addmm(b_out, hidden, w_out.t())

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        """The FFN once for each expert, where all of them have its size."""
        if set(self.sizes) != {w_in.size(0)}:
            raise ValueError(
                f"it has {w_in.size(0)} hidden units, but these experts have {min(self.sizes)} to {max(self.sizes)}"
            )
        given = dict(zip(STACKS, (w_in, b_in, w_out, b_out)))
        return {
            name: given[name.partition(".")[0]].to(stack.dtype).expand_as(stack).clone()
            for name, stack in self.stacks().items()
        }


def sizes_of(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole hidden units in proportion to the ``shares``, which add up to ``total``, at least one for each expert.

    They are multiples of 8 where ``total`` is one and no expert's share of it is smaller. What rounding down leaves over
    goes to the largest remainders, among equal ones to the later experts.

    Raises:
        ValueError: shares that are not positive, or fewer units than experts.
    """
    if not shares or not all(0 < share < math.inf for share in shares):
        raise ValueError("sizes of experts must be positive numbers")
    if total < len(shares):
        raise ValueError(f"{total} hidden units are too few for {len(shares)} experts")
    largest = max(shares)
    scale = total / sum(share / largest for share in shares)
    exact = [scale * (share / largest) for share in shares]
    multiple = MULTIPLE if total % MULTIPLE == 0 and min(exact) > MULTIPLE - ROUNDING else 1
    beyond_one = [max(0.0, each / multiple - 1) for each in exact]
    more = _apportioned(beyond_one, total // multiple - len(shares))
    return tuple(multiple * (1 + each) for each in more)


def _apportioned(shares: Sequence[float], pieces: int) -> list[int]:
    """``pieces`` in proportion to ``shares``."""
    scale = pieces / (sum(shares) or 1.0)
    exact = [scale * share for share in shares]
    sizes = [math.floor(each + ROUNDING) for each in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda e: (round(exact[e] - sizes[e], 6), e), reverse=True)
    for e in by_remainder[: pieces - sum(sizes)]:
        sizes[e] += 1
    return sizes
