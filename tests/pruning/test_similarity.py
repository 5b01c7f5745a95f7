"""Similarities of experts: what leaves them alone, and plain versions of their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe import ExpertBank, Experts
from smoe_mt.pruning.similarity import alike, linear_cka, outputs_alike, products_alike, weights_alike
from tests.pruning.blocks import D, F, tokens

ALL = range(3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def bank(experts: int = 3, seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    return Experts(experts, D, F).double().requires_grad_(False)


def by_gram_matrices(a: Tensor, b: Tensor) -> float:
    """CKA by its definition: K and L [n, n], centred by H = I - 1/n."""
    n = a.size(0)
    h = torch.eye(n, dtype=torch.double) - 1 / n
    k, m = h @ (a @ a.t()) @ h, h @ (b @ b.t()) @ h
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


@given(n=st.integers(2, 20), seed=st.integers(0, 1000), sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=30, deadline=None)
def test_cka_is_that_of_the_centred_gram_matrices(n: int, seed: int, sizes: tuple[int, int]) -> None:
    a, b = random(n, sizes[0], seed=seed), 3 + random(n, sizes[1], seed=seed + 1)
    found = linear_cka([a, b])
    assert found[0, 1].item() == pytest.approx(by_gram_matrices(a, b), abs=1e-9)
    assert found.equal(found.t()) and found.diagonal().eq(1).all()


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_cka_does_not_change_when_outputs_are_rotated_scaled_or_shifted(seed: int, scale: float, shift: float) -> None:
    a, b = random(30, 5, seed=seed), random(30, 5, seed=seed + 1)
    rotation = torch.linalg.qr(random(5, 5, seed=seed + 2)).Q
    found = linear_cka([a, b, scale * a @ rotation + shift])
    torch.testing.assert_close(found[2, 1], found[0, 1])
    assert found[0, 2].item() == pytest.approx(1)


def test_outputs_that_do_not_vary_are_like_no_others() -> None:
    found = linear_cka([random(9, 4), torch.ones(9, 4), torch.zeros(9, 4)])
    assert found.equal(torch.eye(3, dtype=torch.double))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_tokens_make_no_experts_alike(count: int) -> None:
    assert outputs_alike(bank(), ALL, tokens(count)).equal(torch.eye(3, dtype=torch.double))


def test_equal_experts_have_similarity_one_by_every_measure_and_different_ones_less() -> None:
    experts = bank()
    for stack in experts.stacks().values():
        stack[2] = stack[0]
    for measure in (outputs_alike, weights_alike, products_alike):
        found = measure(experts, ALL, tokens())
        assert found[0, 2].item() == pytest.approx(1) and found[0, 1] < 0.9 and found[1, 2] < 0.9


def test_permuted_hidden_units_are_the_same_function_with_other_weights() -> None:
    """The limit of comparing weights, and of merging them: units should be aligned first."""
    experts = bank()
    order = torch.arange(F).flip(0)
    experts.w_in[2], experts.w_out[2] = experts.w_in[0][order], experts.w_out[0][:, order]
    assert experts.b_in is not None and experts.b_out is not None
    experts.b_in[2], experts.b_out[2] = experts.b_in[0][order], experts.b_out[0]
    x = tokens()
    assert outputs_alike(experts, ALL, x)[0, 2].item() == pytest.approx(1)
    assert products_alike(experts, ALL, x)[0, 2].item() == pytest.approx(1)
    assert weights_alike(experts, ALL, x)[0, 2] < 0.9


def test_weights_are_compared_by_their_squared_distance_over_their_squares() -> None:
    experts = bank()
    vectors = [torch.cat([stack[e].flatten() for stack in experts.stacks().values()]) for e in ALL]
    found = weights_alike(experts, ALL, tokens())
    torch.testing.assert_close(found, alike(vectors))
    for i in ALL:
        for j in ALL:
            distance = (vectors[i] - vectors[j]).square().sum()
            expected = 1 - distance / (vectors[i].square().sum() + vectors[j].square().sum())
            torch.testing.assert_close(found[i, j], expected)


def test_the_surrogate_is_the_product_of_both_matrices() -> None:
    experts = bank()
    products = [experts.w_out[e] @ experts.w_in[e] for e in ALL]
    torch.testing.assert_close(products_alike(experts, ALL, tokens()), alike(products))


def test_experts_of_a_stratum_are_compared_among_themselves() -> None:
    experts, x = bank(5), tokens()
    torch.testing.assert_close(outputs_alike(experts, range(2, 5), x), outputs_alike(experts, range(5), x)[2:, 2:])
    torch.testing.assert_close(weights_alike(experts, range(2, 5), x), weights_alike(experts, range(5), x)[2:, 2:])


def test_a_surrogate_needs_ffns() -> None:
    with pytest.raises(UserError, match="--by surrogate needs experts that are FFNs, not ExpertBank"):
        products_alike(ExpertBank(3, D), ALL, tokens())
