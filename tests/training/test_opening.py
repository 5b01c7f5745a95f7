"""The numbers that a training opens with."""

from __future__ import annotations

from collections.abc import Callable

from smoe_mt.models import SMoETransformerModel
from smoe_mt.training.opening import activated_parameters, count_parameters


def test_experts_are_counted_as_experts(make_model: Callable[..., SMoETransformerModel]) -> None:
    model, dense = make_model(moe="switch", num_experts=4), make_model(moe="none")
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    total = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == (total, experts) and experts > 0
    assert activated_parameters(model) == total - experts + experts // 4
    assert count_parameters(dense)[1] == 0 and activated_parameters(dense) == count_parameters(dense)[0]
