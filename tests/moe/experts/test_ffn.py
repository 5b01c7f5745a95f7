"""The bank of plain FFNs: with biases or without, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smoe_mt.moe import MoE
from smoe_mt.moe.experts import Experts

D, F = 8, 12


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_without_biases_is_with_biases_of_zero(backend: str) -> None:
    torch.manual_seed(0)
    plain: Any = MoE(D, F, 3, backend=backend, experts=Experts(3, D, F))
    bare: Any = MoE(D, F, 3, backend=backend, experts=Experts(3, D, F, bias=False))
    for bias in (plain.experts.b_in, plain.experts.b_out):
        torch.nn.init.zeros_(bias)
    bare.load_state_dict({name: value for name, value in plain.state_dict().items() if ".b_" not in name})
    x = torch.randn(9, D)
    sides = []
    for block in (plain, bare):
        y, routing = block(x)
        weights = [block.experts.w_in, block.experts.w_out, block.gate.weight]
        sides.append((y, *torch.autograd.grad(y.sin().sum() + routing.balance_loss, weights)))
    assert all(want.equal(got) for want, got in zip(*sides))


def test_without_biases_has_none_as_parameters() -> None:
    assert [name for name, _ in Experts(3, D, F, bias=False).named_parameters()] == ["w_in", "w_out"]
    assert Experts(3, D, F, bias=False).parameters_of_experts() == (2 * D * F,) * 3


def test_sizes_and_flops_are_those_of_two_products() -> None:
    bank = Experts(3, D, F)
    assert bank.hidden_sizes == (F,) * 3 and bank.flops_per_row() == (4 * D * F,) * 3
    assert bank.parameters_of_experts() == (2 * D * F + D + F,) * bank.num_experts


def test_slices_of_an_expert_are_its_rows_of_the_stacks() -> None:
    bank = Experts(3, D, F)
    slices = bank.slices(1)
    assert set(slices) == {"w_in", "b_in", "w_out", "b_out"} and slices["w_out"].equal(bank.w_out[1])


def test_from_dense_gives_every_expert_the_ffn() -> None:
    bank, dense = Experts(3, D, F), torch.nn.Sequential(torch.nn.Linear(D, F), torch.nn.ReLU(), torch.nn.Linear(F, D))
    bank.load_state_dict(dict(bank.from_dense(*dense.state_dict().values())))
    x = torch.randn(5, D)
    for e in range(3):
        torch.testing.assert_close(bank.expert_output(e, x), dense(x))
    with pytest.raises(ValueError, match=r"w_in is \(8, 8\), but these experts have \(12, 8\)"):
        bank.from_dense(torch.zeros(8, 8), torch.zeros(8), torch.zeros(8, 8), torch.zeros(8))
