"""Forced visits: every token makes as many, through the strata that it says."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.moe import ForcedVisits, StratifiedMoE, routing_override


@pytest.mark.parametrize("strata", [(2, 2), (1, 3, 2), (2, 2, 2, 2)])
def test_every_token_makes_the_forced_visits(strata: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = StratifiedMoE(8, 16, strata).eval()
    x = torch.randn(3, 7, 8)
    for visits in range(1, len(strata) + 1):
        with routing_override(block, selection=ForcedVisits(strata, visits)):
            _, routing = block(x)
        assert (routing.visits == visits).all()
        reached = [int(load.tokens.sum()) > 0 for load in routing.load]
        assert reached == [gate < visits for gate in range(len(strata))]
        assert int(routing.load[visits - 1].tokens[: -strata[-1]].sum()) == 0


def test_forcing_what_a_token_does_anyway_changes_nothing() -> None:
    torch.manual_seed(0)
    block = StratifiedMoE(8, 16, (4,)).eval()
    x = torch.randn(5, 8)
    with routing_override(block, selection=ForcedVisits((4,), 1)):
        forced, _ = block(x)
    assert torch.equal(forced, block(x)[0])


@pytest.mark.parametrize("visits", [0, 3])
def test_visits_that_the_strata_do_not_allow_are_refused(visits: int) -> None:
    with pytest.raises(ValueError, match="has 1 to 2 of them"):
        ForcedVisits((2, 2), visits)
