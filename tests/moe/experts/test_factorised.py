"""Experts that share the centre of their matrices (MPOE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.moe import MoE
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.experts.factorised import FactorisedExperts, bonds, contract, factorise, shape_of

D, F = 8, 12
SHAPES = {"dim_shape": (2, 2, 2), "ffn_shape": (2, 3, 2)}


def bank(experts: int = 3, **options: float) -> FactorisedExperts:
    torch.manual_seed(0)
    return FactorisedExperts(experts, D, F, **SHAPES, **options).double()  # type: ignore[arg-type]


def by_hand(factors: Sequence[Tensor], rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Number by number: the product of the factors' slices, [r, r'] matrices, at the digits of row and column."""
    matrix = torch.zeros(math.prod(rows), math.prod(columns), dtype=torch.double)
    for i in range(matrix.size(0)):
        for j in range(matrix.size(1)):
            product = torch.ones(1, 1, dtype=torch.double)
            a, b = i, j
            digits = []
            for size_i, size_j in zip(reversed(rows), reversed(columns)):
                digits.append((a % size_i, b % size_j))
                a, b = a // size_i, b // size_j
            for factor, (di, dj) in zip(factors, reversed(digits)):
                product = product @ factor[:, di, dj, :]
            matrix[i, j] = product[0, 0]
    return matrix


@pytest.mark.parametrize(
    ("rows", "columns"), [((2, 3, 2), (2, 2, 2)), ((2, 1, 3, 2, 1), (1, 2, 2, 1, 3)), ((4, 1, 1), (1, 5, 2))]
)
def test_contraction_is_the_sum_over_bonds(rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    sizes = bonds(rows, columns)
    factors = [torch.randn(sizes[k], i, j, sizes[k + 1]).double() for k, (i, j) in enumerate(zip(rows, columns))]
    torch.testing.assert_close(contract([factor[None] for factor in factors])[0], by_hand(factors, rows, columns))


@given(st.sampled_from([((2, 3, 2), (2, 2, 2)), ((2, 2, 3, 2, 1), (1, 2, 4, 2, 2))]), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_factors_at_full_bonds_contract_to_the_matrix(shapes: tuple[tuple[int, ...], ...], seed: int) -> None:
    torch.manual_seed(seed)
    matrix = torch.randn(math.prod(shapes[0]), math.prod(shapes[1]), dtype=torch.double)
    factors = factorise(matrix, shapes[0], shapes[1])
    torch.testing.assert_close(contract([factor[None] for factor in factors])[0], matrix, rtol=1e-10, atol=1e-10)


def test_error_of_cut_bonds_does_not_grow_with_their_limit() -> None:
    torch.manual_seed(0)
    rows, columns = (4, 4, 4), (4, 4, 4)
    matrix = torch.randn(64, 64, dtype=torch.double)
    errors = []
    for most in (1, 2, 4, 8, 16):
        factors = factorise(matrix, rows, columns, most)
        errors.append((contract([factor[None] for factor in factors])[0] - matrix).norm().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-9 < errors[-2]


def test_error_of_one_cut_is_the_discarded_spectrum() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.double)
    unfolded = matrix.reshape(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    factors = factorise(matrix, (2, 2, 1), (2, 2, 1), 2)  # the second bond is 1 in any case
    error = (contract([factor[None] for factor in factors])[0] - matrix).norm()
    torch.testing.assert_close(error, torch.linalg.svdvals(unfolded)[2:].norm())


def test_every_expert_is_the_dense_ffn_it_started_from() -> None:
    torch.manual_seed(1)
    dense = torch.nn.Sequential(torch.nn.Linear(D, F), torch.nn.ReLU(), torch.nn.Linear(F, D)).double()
    experts = bank()
    experts.load_state_dict(dict(experts.from_dense(*dense.state_dict().values())))
    x = torch.randn(5, D, dtype=torch.double)
    for e in range(3):
        torch.testing.assert_close(experts.expert_output(e, x), dense(x))


def test_one_expert_at_full_bonds_has_the_outputs_and_input_gradients_of_a_dense_ffn() -> None:
    torch.manual_seed(1)
    plain: Any = Experts(1, D, F).double()
    experts = bank(1)
    experts.load_state_dict(dict(experts.from_dense(*(weight[0] for weight in plain.weights(torch.double)))))
    x = torch.randn(5, D, dtype=torch.double, requires_grad=True)
    sides = [
        (y, *torch.autograd.grad(y.sin().sum(), x)) for y in (each.expert_output(0, x) for each in (plain, experts))
    ]
    for want, got in zip(*sides):
        torch.testing.assert_close(got, want)


def test_gradient_of_the_centre_is_the_sum_over_experts() -> None:
    experts = bank()
    x = torch.randn(6, D, dtype=torch.double)
    outputs = [experts.expert_output(e, x).sum() for e in range(3)]
    centre = experts.shared["w_in"]
    total = torch.autograd.grad(sum(outputs), centre, retain_graph=True)[0]  # type: ignore[arg-type]
    each = [torch.autograd.grad(y, centre, retain_graph=True)[0] for y in outputs]
    assert all(grad.abs().sum() > 0 for grad in each)
    torch.testing.assert_close(total, sum(each))


def test_gradients_are_those_of_finite_differences() -> None:
    layer: Any = MoE(D, F, 3, capacity_factor=0.0, experts=bank()).double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(4, D, dtype=torch.double)

    def run(*parameters: Tensor) -> Tensor:
        y, routing = torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))
        loss: Tensor = y.sin().sum() + routing.balance_loss
        return loss

    # Only factors near the ends and the centres: the others are as many numbers more, of the same kind.
    parameters = tuple(p.detach().clone().requires_grad_("factors.1" not in n) for n, p in layer.named_parameters())
    assert torch.autograd.gradcheck(run, parameters, fast_mode=True)


@pytest.mark.parametrize(("mask", "moves"), [(0.0, True), (1.0, False)])
def test_a_masked_centre_stays_and_the_rest_moves(mask: float, moves: bool) -> None:
    layer: Any = MoE(D, F, 3, experts=bank(central_mask=mask)).double()
    layer(torch.randn(9, D, dtype=torch.double))[0].sum().backward()
    for name, parameter in layer.named_parameters():
        if ".shared." in name:
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) is moves, name
    assert layer.experts.w_in_factors[0].grad.abs().sum() > 0


def test_the_mask_is_the_same_for_all_batches_of_an_update_and_on_all_ranks() -> None:
    draws = []
    for rank in range(2):
        experts, mine = bank(central_mask=0.3), []
        torch.manual_seed(rank)
        for update in range(400):
            experts.set_num_updates(update)
            batches = [experts._draw_keep() for _ in range(3)]
            assert len(set(batches)) == 1
            mine.append(batches[0])
        draws.append(mine)
    assert draws[0] == draws[1] and 0.24 < draws[0].count(0.0) / 400 < 0.36


def test_the_mask_is_drawn_for_each_pass_where_nobody_counts_updates() -> None:
    experts = bank(central_mask=0.3)
    assert 0.2 < sum(experts._draw_keep() == 0.0 for _ in range(400)) / 400 < 0.4


def test_parameters_are_the_centre_once_and_the_rest_for_each_expert() -> None:
    one, three = (sum(p.numel() for p in bank(n).parameters()) for n in (1, 3))
    assert three - one == 2 * bank(1).parameters_of_experts()[0]
    shared = sum(p.numel() for p in bank(1).shared.parameters())
    assert one == shared + bank(1).parameters_of_experts()[0]


def test_evaluation_keeps_the_weights_until_a_factor_changes() -> None:
    experts = bank().float().eval()
    with torch.no_grad():
        first = experts.weights(torch.float32)
        assert experts.weights(torch.float32)[0] is first[0]
        experts.shared["w_in"].mul_(2)
        torch.testing.assert_close(experts.weights(torch.float32)[0], first[0] * 2)


@given(st.integers(1, 4096))
def test_a_shape_multiplies_to_its_size(size: int) -> None:
    assert len(shape_of(size, 5)) == 5 and math.prod(shape_of(size, 5)) == size


def test_variance_at_the_start_is_that_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    experts = FactorisedExperts(20, 64, 128)
    w_in, _, w_out, _ = experts.weights(torch.float32)
    assert 0.6 < w_in.var().item() * 3 * 64 < 1.6 and 0.6 < w_out.var().item() * 3 * 128 < 1.6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim_shape": (2, 2, 3)}, "dim shape 2,2,3 multiplies to no 8"),
        ({"dim_shape": (2, 2, 2, 1)}, "same odd number of factors"),
        ({"bond": -1}, "bond"),
        ({"central_mask": 1.5}, "masking the centres"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FactorisedExperts(3, D, F, **{**SHAPES, **options})
