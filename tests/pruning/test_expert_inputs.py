"""What is sampled of the tokens that experts read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smoe_mt.models import SMoETransformerModel
from smoe_mt.pruning.expert_inputs import ExpertInputs, Sample
from smoe_mt.pruning.layout import layouts_of
from tests.pruning.blocks import layout_of, of_system, tokens


def test_a_sample_has_all_rows_in_their_order_while_they_are_few() -> None:
    sample = Sample(10, seed=1)
    x = torch.arange(12.0).view(6, 2)
    for part in x.split([1, 3, 2]):
        sample.add(part)
    assert sample.rows(2).equal(x)


def test_a_sample_is_not_larger_than_asked_and_every_row_is_as_likely() -> None:
    drawn = torch.zeros(20)
    for seed in range(400):
        sample = Sample(5, seed)
        for part in torch.arange(20.0)[:, None].split(7):
            sample.add(part)
        rows = sample.rows(1).flatten().long()
        assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == 5
        drawn[rows] += 1
    assert drawn.min() > 60 and drawn.max() < 140  # 100 expected, 4.6 standard deviations of 8.7


def test_a_sample_does_not_depend_on_how_rows_are_batched() -> None:
    x = torch.arange(30.0)[:, None]
    found = []
    for size in (4, 30):
        sample = Sample(6, seed=3)
        for part in x.split(size):
            sample.add(part)
        found.append(sample.rows(1))
    assert found[0].equal(found[1])


def test_nothing_is_an_empty_sample() -> None:
    assert Sample(5, seed=1).rows(4).shape == (0, 4)


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_inputs_are_of_the_tokens_at_each_gate_and_padding_is_not_among_them(
    make_model: Callable[..., SMoETransformerModel], backend: str
) -> None:
    model = make_model(moe="stratified", strata="2,2", moe_backend=backend).eval()
    model.to(torch.bfloat16 if backend == "grouped" else torch.float32)
    source = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])
    target = torch.tensor([[2, 5, 6], [2, 9, 1]])
    layouts = layouts_of(model, "here")
    inputs = ExpertInputs(layouts, 100, seed=1)
    with inputs.watched(), torch.no_grad():
        _, extra = model(source, torch.tensor([4, 2]), target)
    model(source, torch.tensor([4, 2]), target)  # is not watched any more
    for layout, routing in zip(layouts, (*extra["encoder_routing"], *extra["decoder_routing"]), strict=True):
        for gate, load in enumerate(routing.load):
            assert len(inputs.of(layout, gate)) == load.tokens.sum()
        assert len(inputs.of(layout, 0)) == (6 if layout.block.side == "encoder" else 5)
    assert all(bank.remote is None for layout in layouts for bank in layout.banks.values())


def test_adapters_are_compared_on_what_they_read_which_is_not_what_their_gate_reads() -> None:
    block: Any = of_system("pesc", (3,))
    layout = layout_of(block, "pesc", (3,))
    inputs = ExpertInputs([layout], 100, seed=1)
    x = tokens(5)
    with inputs.watched():
        block(x)
    torch.testing.assert_close(inputs.of(layout, 0), block.ffn(x))
