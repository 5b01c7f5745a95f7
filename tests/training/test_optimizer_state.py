"""What a checkpoint says of the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.optim.adam import Adam

from smoe_mt.training.optimizer_state import check_optimizer_state


def stepped() -> Any:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    return optimizer


def test_state_that_training_wrote_is_sound() -> None:
    check_optimizer_state(stepped())


@pytest.mark.parametrize(
    ("name", "value"), [("betas", "ab"), ("lr", float("nan")), ("eps", float("inf")), ("betas", (0.9, None, "x"))]
)
def test_settings_that_are_no_finite_numbers_are_refused(name: str, value: Any) -> None:
    optimizer = stepped()
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=f"{name} is no finite number"):
        check_optimizer_state(optimizer)


@pytest.mark.parametrize("moment", [torch.ones(5), "text"])
def test_moments_of_another_shape_are_refused(moment: Any) -> None:
    optimizer = stepped()
    next(iter(optimizer.state.values()))["exp_avg"] = moment
    with pytest.raises(ValueError, match=r"exp_avg does not fit a weight of \(2, 3\)"):
        check_optimizer_state(optimizer)
