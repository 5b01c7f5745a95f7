"""What a training's step reads back from the device: nothing, but where experts are computed one by one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.padding import never_ask
from smoe_mt.training.read_backs import ReadBacks

MakeModel = Callable[..., SMoETransformerModel]
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"moe": "none"},
    "vanilla": {"moe": "vanilla", "num_experts": 4, "moe_backend": "grouped"},
    "smoe": {"moe": "stratified", "strata": "2,2", "moe_backend": "grouped", "balance_bias": 0.01},
    "smoe, own kernels": {"moe": "stratified", "strata": "2,2", "moe_backend": "triton", "encoder_layers": 1},
}


def sample() -> dict[str, Any]:
    """Two sentences and a row of padding; counts as a captured step has them."""
    net_input = {
        "src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1], [1, 1, 1, 1, 1]]),
        "src_lengths": torch.tensor([5, 3, 0]),
        "prev_output_tokens": torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1], [1, 1, 1, 1]]),
    }
    target = torch.tensor([[11, 12, 13, 2], [14, 2, 1, 1], [1, 1, 1, 1]])
    counts = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("ntokens", 6), ("nsentences", 2))}
    return {"net_input": net_input, "target": target, "direction": torch.tensor([1, 0, 0]), **counts}


def step(model: SMoETransformerModel, task: SimpleNamespace) -> list[str]:
    """Forward, criterion and backward; what it read."""
    criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1, balance_weight=0.1).train()
    with never_ask(), ReadBacks("cpu") as read:
        loss, _, _ = criterion(model.train(), sample())
        loss.backward()
    return read.found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_nothing_back(make_model: MakeModel, task: SimpleNamespace, kind: str) -> None:
    assert step(make_model(**KINDS[kind], dropout=0.1), task) == []


def test_what_reads_back_is_named(make_model: MakeModel, task: SimpleNamespace) -> None:
    found = step(make_model(moe="vanilla", num_experts=4, moe_backend="loop"), task)
    assert any(place.startswith("aten._local_scalar_dense in smoe_mt/moe/") for place in found) or found
    assert all(" in smoe_mt/moe/" in place for place in found), found


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "index"),
        (lambda x: bool(x.any()), "_local_scalar_dense"),
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
    ],
)
def test_operations_that_the_host_waits_for(read: Callable[[Tensor], Any], name: str) -> None:
    with ReadBacks("cpu") as found:
        read(torch.tensor([1.0, 2.0]))
    assert [place.split(" in ")[0] for place in found.found] == [f"aten.{name}"]


def test_what_lies_elsewhere_is_nobodys_matter() -> None:
    with ReadBacks("cuda") as found:
        torch.tensor([1.0]).item()
        torch.tensor([1.0]).to(torch.float64)
    assert found.found == []
