"""Weights of the choices: raw, renormalised, uniform, with slots that were dropped and slots without a choice."""

from __future__ import annotations

import torch

from smoe_mt.moe.routers.base import Weighting, combine_weights

PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
CHOICES = torch.tensor([[0, 1], [1, 3]])  # the second token has one choice alone
KEPT = torch.tensor([[True, True], [True, False]])


def weights(weighting: Weighting, kept: torch.Tensor = KEPT) -> list[list[float]]:
    found = combine_weights(PROBS, CHOICES, kept, weighting, complete=False)
    return [[round(value, 6) for value in row] for row in found.tolist()]


def test_raw_weights_are_the_probabilities() -> None:
    assert weights(Weighting.RAW) == [[0.5, 0.3], [0.6, 0.0]]


def test_renormalised_weights_add_up_to_1_over_what_was_served() -> None:
    assert weights(Weighting.RENORMALISED) == [[0.625, 0.375], [1.0, 0.0]]


def test_uniform_weights_are_1_over_the_number_served() -> None:
    assert weights(Weighting.UNIFORM) == [[0.5, 0.5], [1.0, 0.0]]


def test_a_token_that_lost_all_its_slots_has_weights_of_0() -> None:
    for weighting in Weighting:
        assert weights(weighting, torch.zeros(2, 2, dtype=torch.bool)) == [[0.0, 0.0], [0.0, 0.0]]
