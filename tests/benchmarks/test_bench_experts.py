"""Where all experts of a block are as fast as the kernels in whose place they are taken."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from benchmarks.bench_experts import always, crossing, measure
from smoe_mt.moe.kernels import all_experts


def row(tokens: int, to_loop: float, experts: int = 8, choices: int = 2) -> dict[str, Any]:
    return {"tokens": tokens, "experts": experts, "choices": choices, "to loop": to_loop}


@pytest.mark.parametrize(
    ("rows", "tokens"),
    [
        ([row(5, 0.5), row(10, 1.0), row(20, 1.1), row(50, 0.9)], 10),
        ([row(5, 0.5), row(10, 0.5), row(5, 1.5, experts=16)], 0),
        ([row(5, 0.5), row(5, 1.5, experts=41)], 5),
        ([row(5, 0.5), row(5, 1.5, experts=21, choices=1)], 5),
        ([row(5, 2.0)], 0),
        ([], None),
    ],
)
def test_the_rule_takes_the_tokens_up_to_which_nothing_was_slower(
    rows: list[dict[str, Any]], tokens: int | None
) -> None:
    """Among those with too many experts for them, which it leaves to other kernels, all may have been."""
    assert all_experts.MOST_EXPERTS_PER_CHOICE == 4
    assert crossing(rows, "loop") == tokens
    assert crossing(rows, "triton") is None


def test_what_is_measured_is_all_experts_and_the_rule_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: value for name, value in vars(all_experts).items() if name.isupper()}
    args = Namespace(device="cpu", dtype="fp32", embed_dim=16, ffn_dim=24, capacity_factor=0.0, runs=1, clock="cpu")
    with always("cpu"):
        found = measure("smoe_4_12", 8, 3, args)
    assert {name: value for name, value in vars(all_experts).items() if name.isupper()} == before
    assert found["choices"] == 2 and {"all_experts us", "loop us", "to loop", "to grouped"} <= found.keys()
