"""The experts of each token, from what the gates choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smoe_mt.generation.experts_taken import Listener, active_rows, experts_of_rows
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.names import blocks_of
from smoe_mt.moe.routers.base import Choices


def choices(*experts: tuple[int, ...]) -> Choices:
    table = torch.tensor(experts)
    return Choices(table, table[:, 0])


def test_a_token_that_skips_a_stratum_has_no_experts_there() -> None:
    # Strata of 2 and 2 experts: the first row visits both, the second goes to the last one at once.
    told = [choices((0, 2), (3, 1)), choices((1, 0))]
    assert experts_of_rows(told, (2, 2), True, torch.tensor([True, True])) == [((1, 3), (4, 3)), ((4, 2),)]


def test_gates_may_be_told_all_rows_or_those_at_them_alone() -> None:
    active = torch.tensor([True, False, True])
    gathered = [choices((0, 2), (3, 1)), choices((1, 0))]
    masked = [choices((0, 2), (0, 1), (3, 1)), choices((1, 0), (0, 1), (0, 1))]
    expected = [((1, 3), (4, 3)), (), ((4, 2),)]
    assert experts_of_rows(gathered, (2, 2), True, active) == experts_of_rows(masked, (2, 2), True, active) == expected


def test_no_choice_is_left_out_and_layers_are_passed_by_all() -> None:
    told = [choices((0, 2), (1, 0)), choices((1, 2), (0, 1))]
    assert experts_of_rows(told, (2, 2), False, torch.tensor([True, True])) == [((1,), (4,)), ((2, 1), (3, 4))]


def test_rows_that_hold_a_token() -> None:
    assert active_rows([1, 3]).tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("lengths", [(5, 5), (6, 3)], ids=["even", "padded"])
def test_as_many_as_the_block_counts(make_model: Callable[..., Any], system: str, lengths: tuple[int, ...]) -> None:
    model = make_model(moe=system, strata="2,2,2", num_experts="4", balance_bias=0.0).eval()
    pad = model.encoder.dictionary.pad()
    tokens = torch.full((len(lengths), max(lengths)), pad)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.arange(length) + 4 + row
    with torch.no_grad(), Listener(model) as listener:
        _, extra = model(tokens, torch.tensor(lengths), tokens)
        found = {block: listener.experts_of_pieces(block, lengths) for block in blocks_of(model)}
    routings = (*extra["encoder_routing"], *extra["decoder_routing"])
    for (block, rows), routing in zip(found.items(), routings, strict=True):
        counts = [[len(visits) for visits in row] for row in rows]
        assert counts == [routing.visits[row, :length].tolist() for row, length in enumerate(lengths)], block
        experts = sum(model.cfg.groups[block.side][0])
        assert all(1 <= e <= experts for row in rows for visits in row for visit in visits for e in visit)
    assert all(module.listener is None for routers in listener._routers.values() for module in routers)
