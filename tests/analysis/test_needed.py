"""Forced visits on the blocks of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smoe_mt.analysis.needed import BOTH, Forcing, forced
from smoe_mt.moe import SYSTEMS, BlockPlace
from smoe_mt.moe.names import Block
from smoe_mt.moe.shared import with_shared_experts
from tests.moe.settings import settings_of

STRATA = (2, 2)
NAMES = [name for name, system in SYSTEMS.items() if system.nested]


@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_visits_can_be_forced_on_every_system_with_strata(name: str, shared: int) -> None:
    cfg = settings_of(name, shared_experts=shared)
    made: Any = SYSTEMS[name].build(cfg, BlockPlace("encoder", 2, 8, 16, STRATA))
    block = with_shared_experts(cfg, made, 8).eval()
    parts = SYSTEMS[name].sub_tokens(vars(cfg))
    place = Block("encoder", 2)
    for visits in (1, 2):
        with forced({place: block}, {place: STRATA}, Forcing(BOTH, visits)):
            _, routing = block(torch.randn(20, 8))
        assert routing.visits.tolist() == [visits * parts] * 20
