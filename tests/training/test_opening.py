"""The numbers that a training opens with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.sizes import activated_parameters, count_parameters
from smoe_mt.training.opening import _updates


def test_experts_are_counted_as_experts(make_model: Callable[..., SMoETransformerModel]) -> None:
    model, dense = make_model(moe="switch", num_experts=4), make_model(moe="none")
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    total = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == (total, experts) and experts > 0
    assert activated_parameters(model) == total - experts + experts // 4
    assert count_parameters(dense)[1] == 0 and activated_parameters(dense) == count_parameters(dense)[0]


@pytest.mark.parametrize(
    ("max_update", "max_epoch", "made", "words"),
    [
        (1200, 0, 0, "1,200"),
        (1200, 0, 800, "1,200; 800 are made"),
        (0, 1, 0, "1 epoch"),
        (1200, 3, 0, "1,200 or 3 epochs, whichever ends first"),
        (0, 0, 0, "no limit"),
        (1200, -1, 1200, "1,200; 1,200 are made"),
    ],
)
def test_the_updates_are_those_of_all_limits(max_update: int, max_epoch: int, made: int, words: str) -> None:
    limits = SimpleNamespace(max_update=max_update, max_epoch=max_epoch)
    assert _updates(SimpleNamespace(optimization=limits), made) == words
