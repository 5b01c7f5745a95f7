"""Selectors: the mlp learns what fires, its kept epoch is the best one, and quality is measured against the best choice."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.errors import UserError
from smoe_mt.moefication.selectors import Slices, Tokens, mlp_selector, quality, similarity_selector

EXPERTS, UNITS, D = 8, 4, 16


@pytest.fixture(scope="module")
def slices() -> Slices:
    """Each expert around a direction of its own; some fire seldom, which their directions do not show."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(EXPERTS, 1, D, generator=rng)
    w_in = centres + 0.5 * torch.randn(EXPERTS, UNITS, D, generator=rng)
    return Slices(w_in, 3 * torch.randn(EXPERTS, 1, generator=rng).expand(-1, UNITS) - 1)


@pytest.fixture(scope="module")
def read(slices: Slices) -> Tokens:
    return Tokens.of(torch.randn(1000, D, generator=torch.Generator().manual_seed(1)), slices, 1)


def test_activity_is_the_sum_over_an_experts_units(slices: Slices) -> None:
    x = torch.randn(5, D)
    want = torch.stack([torch.relu(x @ w.t() + b).sum(dim=1) for w, b in zip(slices.w_in, slices.b_in)], dim=1)
    torch.testing.assert_close(slices.activity(x), want)


def test_a_tenth_of_the_tokens_is_held_out(slices: Slices) -> None:
    x = torch.randn(105, D)
    made = Tokens.of(x, slices, 3)
    assert (len(made.x), len(made.held_x)) == (95, 10)
    together = torch.cat([made.x, made.held_x])
    assert together.sort(dim=0).values.equal(x.sort(dim=0).values)
    torch.testing.assert_close(made.held_sums, slices.activity(made.held_x))
    with pytest.raises(UserError, match="9 tokens, too few"):
        Tokens.of(x[:9], slices, 3)


def test_the_mlp_learns_and_the_same_seed_gives_the_same(slices: Slices, read: Tokens) -> None:
    start, none = mlp_selector(slices, read, 0.25, 1, epochs=5, seconds=0.0)
    trained, done = mlp_selector(slices, read, 0.25, 1, epochs=5, seconds=60)
    again, _ = mlp_selector(slices, read, 0.25, 1, epochs=5, seconds=60)
    assert (none, done) == (0, 5)
    assert all(one.equal(other) for one, other in zip(trained.parameters(), again.parameters()))
    before, after = (quality(each.scores(read.held_x), read.held_sums, 0.25) for each in (start, trained))
    assert after.recall > before.recall and after.kept > before.kept
    assert start.w_2.equal(torch.eye(EXPERTS)) and not any(each.requires_grad for each in trained.parameters())


def test_similarity_compares_with_the_mean_row(slices: Slices, read: Tokens) -> None:
    made = similarity_selector(slices, 0.25)
    cosine = torch.nn.functional.cosine_similarity(read.held_x[:, None], slices.w_in.mean(dim=1)[None], dim=2)
    torch.testing.assert_close(made.scores(read.held_x), (1 + cosine) / 2)


def test_quality_of_a_choice() -> None:
    """The first token keeps 3 of 6 where 5 could be kept, the second one all; nothing fires for the third."""
    sums = torch.tensor([[3.0, 0.0, 2.0, 1.0], [0.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.1, 0.9, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    found = quality(scores, sums, 0.5)
    assert found.kept == pytest.approx((3 / 6 + 1) / 2)
    assert found.best == pytest.approx((5 / 6 + 1) / 2)
    assert found.recall == pytest.approx((1 / 2 + 1) / 2)
    assert quality(sums, sums, 0.5).recall == 1.0 and quality(sums, sums, 1.0).kept == 1.0
