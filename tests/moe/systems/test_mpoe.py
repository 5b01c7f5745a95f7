"""MPOE: the block of its system; the bank itself is tested in tests/moe/experts."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE
from smoe_mt.moe.experts.factorised import FactorisedExperts
from smoe_mt.moe.systems.mpoe import parse_shape
from tests.moe.reference import reference_layers
from tests.moe.settings import settings_of

D, F = 8, 12


def layer(**options: object) -> MoE:
    cfg = settings_of("mpoe", mpoe_shape="2,2,2x2,3,2", **options)
    made = SYSTEMS["mpoe"].build(cfg, BlockPlace("encoder", 2, D, F, (4,))).double()
    assert isinstance(made, MoE)
    return made


@pytest.mark.parametrize("capacity_factor", [0.0, 0.7])
def test_outputs_and_gradients_are_those_of_the_equations(capacity_factor: float) -> None:
    torch.manual_seed(0)
    block = layer(capacity_factor=capacity_factor)
    x = torch.randn(2, 7, D, dtype=torch.double, requires_grad=True)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[1, 5:] = True
    y, routing = block(x, mask)
    want = reference_layers(x, mask, [block])
    torch.testing.assert_close(y, want.y)
    inputs = [x, *block.parameters()]
    sides = [
        torch.autograd.grad(each.sin().sum() + loss, inputs)
        for each, loss in ((y, routing.balance_loss), (want.y, want.balance_loss))
    ]
    for got, expected in zip(*sides):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_experts_cost_little_more_than_one() -> None:
    sizes = {n: sum(p.numel() for p in FactorisedExperts(n, 512, 2048).parameters()) for n in (1, 8)}
    assert sizes[8] < 1.4 * sizes[1]


def test_options_reach_the_bank() -> None:
    bank = layer(mpoe_bond=3, mpoe_central_mask=0.5).experts
    assert isinstance(bank, FactorisedExperts)
    assert (bank.dim_shape, bank.ffn_shape, bank.bond, bank.central_mask) == ((2, 2, 2), (2, 3, 2), 3, 0.5)


def test_a_shape_that_is_none_is_named() -> None:
    assert parse_shape("") == (None, None)
    with pytest.raises(ValueError, match="mpoe_shape must be two lists"):
        parse_shape("2,2")
