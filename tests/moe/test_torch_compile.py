"""A compiled model with blocks in it gives what it gives uncompiled."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from smoe_mt.moe import ConditionalMoE, MoE, Stacking, StratifiedMoE, keep_blocks_out_of_graphs


class Model(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.before, self.block, self.after = nn.Linear(8, 8), block, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, routing = self.block(self.before(x).relu())
        return self.after(y).tanh(), routing.balance_loss


@pytest.mark.parametrize(
    "block",
    [MoE(8, 12, 4), ConditionalMoE(8, 12, 4, gate_dropout=0.0), Stacking(8, 12, (2, 2)), StratifiedMoE(8, 12, (2, 3))],
    ids=lambda block: type(block).__name__,
)
def test_compiled_around_the_blocks(block: Any) -> None:
    model = Model(block)
    x = torch.randn(20, 8)
    results = []
    for run in cast(
        tuple[Any, Any], (model, torch.compile(keep_blocks_out_of_graphs(Model(block)), backend="aot_eager"))
    ):
        run.load_state_dict(model.state_dict()) if run is model else run._orig_mod.load_state_dict(model.state_dict())
        y, balance = run(x)
        results.append([y, *torch.autograd.grad(y.square().sum() + balance, [*block.parameters()])])
    for want, got in zip(*results):
        torch.testing.assert_close(got, want)
