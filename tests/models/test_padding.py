"""Whether there is padding is asked on a CPU alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.padding import may_ask, never_ask, padding_mask
from smoe_mt.read_backs import ReadBacks


def test_a_cpu_is_asked_unless_told_otherwise() -> None:
    tokens = torch.tensor([[4, 5], [6, 7]])
    assert padding_mask(tokens, 1) is None
    with never_ask():
        assert not may_ask(tokens)
        mask = padding_mask(tokens, 1)
    assert mask is not None and not mask.any()
    assert may_ask(tokens)


def test_a_gpu_is_never_asked() -> None:
    assert not may_ask(torch.empty(2, 3, device="meta"))


def test_a_model_computes_the_same_without_asking(
    make_model: Callable[..., SMoETransformerModel], net_input: dict[str, Tensor]
) -> None:
    """In training, at all positions that are not padding, with padding in the batch or not."""
    model = make_model(moe="stratified", strata="2,2", dropout=0.0, attention_dropout=0.0).train()
    for row in (slice(None), slice(0, 1)):
        batch = {name: value[row] for name, value in net_input.items()}
        asked, _ = model(**batch)
        with never_ask():
            taken_for_granted, _ = model(**batch)
        real = batch["prev_output_tokens"] != 1
        torch.testing.assert_close(taken_for_granted[real], asked[real])


@pytest.mark.parametrize(
    "settings", [{"moe": "none"}, {"moe": "stratified", "strata": "2,2", "moe_backend": "grouped"}]
)
def test_a_pass_in_training_reads_nothing_back(
    make_model: Callable[..., SMoETransformerModel], net_input: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    model = make_model(**settings).train()
    with never_ask(), ReadBacks("cpu") as read:
        logits, extra = model(**net_input)
        blocks = (*extra["encoder_routing"], *extra["decoder_routing"])
        (logits.sum() + sum(block.balance_loss for block in blocks)).backward()
    assert read.found == []
    with ReadBacks("cpu") as read:
        model(**net_input)
    assert read.found, "a CPU is asked"
