"""Weights packed for few rows: same results, made anew when weights change, gone in training and in copies."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.moe import ConditionalMoE, MoE, StratifiedMoE
from smoe_mt.moe.linear import packable

pytestmark = pytest.mark.skipif(not packable(torch.ones(1)), reason="this torch has no packed products")


BLOCKS = {
    "vanilla": lambda **o: MoE(16, 24, 5, **o),
    "cmr": lambda **o: ConditionalMoE(16, 24, 5, **o),
    "stratified": lambda **o: StratifiedMoE(16, 24, (2, 3), **o),
}


def packed_and_not(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The block without gradients, which may use packed weights, and with them, which may not."""
    with torch.no_grad():
        got = block(x)[0]
    return got, block(x)[0].detach()


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("tokens", [1, 7, 40, 256])
def test_same_results(name: str, activation: str, tokens: int) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name](activation=activation).eval()
    got, want = packed_and_not(block, torch.randn(tokens, 16))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_only_experts_that_were_asked_are_packed() -> None:
    block: Any = MoE(16, 24, 9).eval()
    with torch.no_grad():
        asked = block(torch.randn(1, 16))[1].load[0].asked
    assert sorted(block.experts.packed._packed) == asked.nonzero().flatten().tolist()


def test_changed_weights_are_packed_anew() -> None:
    block: Any = MoE(16, 24, 3).eval()
    x = torch.randn(4, 16)
    packed_and_not(block, x)
    with torch.no_grad():
        block.experts.w_in.mul_(-1)
    got, want = packed_and_not(block, x)
    torch.testing.assert_close(got, want)
    block.load_state_dict(MoE(16, 24, 3).state_dict())
    got, want = packed_and_not(block, x)
    torch.testing.assert_close(got, want)


def test_training_has_none() -> None:
    block: Any = MoE(16, 24, 3).eval()
    packed_and_not(block, torch.randn(4, 16))
    assert block.experts.packed._packed
    block.train()
    assert not block.experts.packed._packed
    packed_and_not(block, torch.randn(4, 16))
    assert not block.experts.packed._packed


def test_copies_and_files_have_none() -> None:
    block: Any = MoE(16, 24, 3).eval()
    packed_and_not(block, torch.randn(4, 16))
    assert not copy.deepcopy(block).experts.packed._packed
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    assert not torch.load(file, weights_only=False).experts.packed._packed
    assert "packed" not in "".join(block.state_dict())


def test_other_precisions_go_without() -> None:
    block: Any = MoE(16, 24, 3).double().eval()
    with torch.no_grad():
        block(torch.randn(4, 16, dtype=torch.float64))
    assert not block.experts.packed._packed
