"""Experts shared out to threads: who gets which, and that results and gradients are those of one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.moe import StratifiedMoE
from smoe_mt.moe.kernels.threads import MOST_IDLE, for_each_expert, free_threads, shared_out

CPU = torch.device("cpu")


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@given(st.dictionaries(st.integers(0, 40), st.integers(1, 1000), min_size=1), st.integers(1, 8))
def test_everyone_is_in_one_share_and_no_thread_idles_long(costs: dict[int, int], threads: int) -> None:
    shares = shared_out(costs, threads)
    assert sorted(e for share in shares for e in share) == sorted(costs)
    assert len(shares) <= threads
    if len(shares) > 1:
        busiest = max(sum(costs[e] for e in share) for share in shares)
        assert busiest * threads <= MOST_IDLE * sum(costs.values())


def test_one_expert_with_almost_all_rows_is_computed_by_all_threads() -> None:
    assert shared_out({0: 1000, 1: 10, 2: 10}, 2) == [[0, 1, 2]]


def test_each_expert_with_rows_is_worked_on_once(threads: int) -> None:
    done: list[int] = []
    for_each_expert(done.append, [3, 0, 3, 3, 0, 3], CPU)
    assert sorted(done) == [0, 2, 3, 5]


@pytest.mark.parametrize("experts", [1, 6])
def test_no_gradients_are_recorded(threads: int, experts: int) -> None:
    weight = torch.ones(1, requires_grad=True)
    seen: list[bool] = []
    for_each_expert(lambda e: seen.append((weight * 2).requires_grad), [1] * experts, CPU)
    assert seen == [False] * experts


def test_a_failure_in_a_thread_is_told(threads: int) -> None:
    def work(e: int) -> None:
        raise ArithmeticError(f"expert {e}")

    with pytest.raises(ArithmeticError, match="expert"):
        for_each_expert(work, [1, 1, 1], CPU)


def test_the_threads_setting_is_left_alone(threads: int) -> None:
    for_each_expert(lambda e: None, [1] * 6, CPU)
    assert torch.get_num_threads() == threads


def test_counters_of_operations_see_all_of_them(threads: int) -> None:
    block: Any = StratifiedMoE(16, 24, (2, 3))
    counts = []
    for number in (threads, 1):
        torch.set_num_threads(number)
        with FlopCounterMode(display=False) as counter:
            block(torch.ones(5, 16))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_results_and_gradients_are_those_of_one_thread(threads: int) -> None:
    torch.manual_seed(0)
    block: Any = StratifiedMoE(16, 24, (3, 4, 2), capacity_factor=1.0)
    x = torch.randn(60, 16, requires_grad=True)
    results = []
    for number in (1, threads):
        torch.set_num_threads(number)
        assert free_threads(CPU) == number
        y, routing = block(x)
        grads = torch.autograd.grad(y.square().sum() + routing.balance_loss, [x, *block.parameters()])
        results.append([y, *grads])
    for want, got in zip(*results):
        torch.testing.assert_close(got, want)


def test_inference_mode_reaches_the_threads(threads: int) -> None:
    block: Any = StratifiedMoE(16, 24, (3, 4)).eval()
    x = torch.randn(60, 16)
    with torch.no_grad():
        want = block(x)[0]
    with torch.inference_mode():
        torch.testing.assert_close(block(x)[0], want)
