"""What the experts of a model read while it reads text: a sample of the tokens at each gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from smoe_mt.moe import ExpertBank
from smoe_mt.moe.dispatch import Plan
from smoe_mt.moe.experts.base import AroundExperts, BoundExperts
from smoe_mt.moe.kernels.select import bind_local
from smoe_mt.pruning.layout import Layout


class Sample:
    """A uniform sample without replacement of rows that come in batches: at most `most` of them, in the order they came."""

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._generator = torch.Generator().manual_seed(seed)
        self._keys: Tensor = torch.empty(0)
        self._rows: Tensor | None = None

    def add(self, x_TD: Tensor) -> None:
        """Each row gets a random key; those with the largest keys so far are kept."""
        keys = torch.cat([self._keys, torch.rand(x_TD.size(0), generator=self._generator)])
        rows = x_TD if self._rows is None else torch.cat([self._rows, x_TD])
        kept = keys.topk(min(self._most, keys.numel())).indices.sort().values
        self._keys, self._rows = keys[kept], rows[kept.to(rows.device)]

    def rows(self, embed_dim: int) -> Tensor:
        """[n, embed_dim]; n is 0 where no row came."""
        return torch.empty(0, embed_dim) if self._rows is None else self._rows


class ExpertInputs:
    """Samples of what is at hand for the experts at each gate of some blocks: at most `most` tokens of each gate."""

    def __init__(self, layouts: Sequence[Layout], most: int, seed: int) -> None:
        self._samples: dict[ExpertBank, dict[int, Sample]] = {}
        sets = [(layout, number) for layout in layouts for number in range(len(layout.sizes))]
        for place, (layout, number) in enumerate(sets):
            bank, experts = layout.bank(number)
            self._samples.setdefault(bank, {})[experts.start] = Sample(most, seed + place)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is open, passes of the model add to the samples."""
        try:
            for bank, samples in self._samples.items():
                bank.remote = _Recorder(samples)
            yield
        finally:
            for bank in self._samples:
                bank.remote = None

    def of(self, layout: Layout, number: int) -> Tensor:
        """Tokens that reached the gate of set `number` of a block, as its experts read them; [n, D]."""
        bank, experts = layout.bank(number)
        return self._samples[bank][experts.start].rows(bank.embed_dim)


@dataclass(frozen=True)
class _Recorder:
    """In the place of a bank's other ranks: binds the bank as it is, on the kernel that gets the tokens at a gate and no others.

    samples  by the number of the first expert that a gate sees
    """

    samples: Mapping[int, Sample]

    def bind(self, bank: ExpertBank, dtype: torch.dtype, backend: str, dropout: float) -> BoundExperts:
        return _Recorded(bind_local(bank, dtype, "loop", dropout), self.samples)


@dataclass(frozen=True)
class _Recorded(AroundExperts):
    """Bound experts whose inputs are sampled."""

    samples: Mapping[int, Sample]

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, plan: Plan, first_expert: int) -> Tensor:
        self.samples[first_expert].add(x_TD.detach())
        return self.experts(x_TD, weights_TK, plan, first_expert)
