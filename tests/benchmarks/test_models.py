"""FLOPs as counted are those of the products: training, and evaluation with packed weights."""

from __future__ import annotations

import torch

from benchmarks.models import count_flops
from smoe_mt.moe import MoE


def test_counts_every_product_of_a_block() -> None:
    block = MoE(16, 24, 3, capacity_factor=0)
    x = torch.randn(50, 16, requires_grad=True)
    gate, ffn = 2 * 50 * 16 * 3, 2 * 2 * 100 * 16 * 24
    biases = 2 * 100 * (24 + 16)  # gradients of the biases, some of them as products
    training = count_flops(lambda: block(x)[0].sum().backward())
    assert 3 * (gate + ffn) - gate <= training <= 3 * (gate + ffn) + biases

    block.eval()

    def evaluate() -> None:
        with torch.no_grad():
            block(x.detach())

    assert count_flops(evaluate) == gate + ffn
