"""What the gates of a model see while it reads text: a sample of the tokens at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.moe import MoEBlock
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


class GateInputs:
    """Samples of the inputs of all gates of some blocks, at most `most` tokens each."""

    def __init__(self, layouts: Sequence[Layout], most: int, seed: int) -> None:
        self._layouts = layouts
        self._samples = {
            router: Sample(most, seed + number)
            for number, router in enumerate(router for layout in layouts for router in layout.routers.values())
        }

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[None]:
        """While this is open, passes of the model add to the samples."""

        def add(router: Any, inputs: tuple[Tensor, ...]) -> None:
            self._samples[router].add(inputs[0].detach())

        with ExitStack() as stack:
            stack.enter_context(on_loop(model))
            for router in self._samples:
                stack.callback(router.register_forward_pre_hook(add).remove)
            yield

    def of(self, layout: Layout, number: int) -> Tensor:
        """Tokens that reached the gate of set `number` of a block; [n, D]."""
        return self._samples[layout.router(number)].rows(layout.bank(number)[0].embed_dim)


@contextmanager
def on_loop(model: nn.Module) -> Iterator[None]:
    """While this is open, blocks compute with the backend `loop`: it calls each gate with the tokens that reached it alone."""
    blocks: list[Any] = [module for module in model.modules() if isinstance(module, MoEBlock)]
    backends = {block: block.backend for block in blocks if hasattr(block, "backend")}
    try:
        for block in backends:
            block.backend = "loop"
        yield
    finally:
        for block, backend in backends.items():
            block.backend = backend
