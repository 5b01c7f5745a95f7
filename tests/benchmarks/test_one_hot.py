"""The one-hot form computes what the engine computes: what they are compared for is time alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.one_hot import one_hot_moe, one_hot_stratified
from smoe_mt.moe import MoE, StratifiedMoE


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", ["vanilla", "stratified"])
def test_same_results_and_gradients(training: bool, top_k: int, kind: str) -> None:
    torch.manual_seed(0)
    settings = {"top_k": top_k, "capacity_factor": 0.8}
    if kind == "vanilla":
        block, one_hot = MoE(16, 24, 5, **settings).train(training), one_hot_moe
    else:
        block, one_hot = StratifiedMoE(16, 24, (2, 4), **settings).train(training), one_hot_stratified
    x = torch.randn(40, 16, requires_grad=True)
    got, (want, routing) = one_hot(block, x), block(x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not training or any((load.served < load.asked).any() for load in routing.load)
    inputs = [x, *block.parameters()]
    for g, w in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (got, want))):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)
