"""What is measured over ranks: bytes that travelled are counted right, and exchanges go on while experts are computed."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn

from benchmarks.bench_ranks import Traffic, Way, counted, ways
from benchmarks.local_ranks import on_ranks
from benchmarks.overlap import Span, Spans, overlap, profiled
from smoe_mt.moe import MoE
from smoe_mt.moe.distributed.expert_parallel import shard_experts
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh

pytestmark = pytest.mark.ranks

D, TOKENS, EXPERTS = 32, 64, 4
WORDS = 8 * (2 + EXPERTS // 2)  # bytes to one rank: block, precision, rows for each of its experts


def shared_block(chunks: int) -> nn.Module:
    torch.manual_seed(0)
    block = MoE(D, 64, EXPERTS, capacity_factor=0.0)
    shard_experts(block, ExpertRanks(expert_mesh(2, "cpu"), chunks))
    return block


def train(block: nn.Module, x: torch.Tensor) -> None:
    block(x)[0].sum().backward()


def spans_of(_rank: int, chunks: int) -> Spans:
    block, x = shared_block(chunks), torch.randn(TOKENS, D, requires_grad=True)
    train(block, x)
    return profiled(lambda: train(block, x))[0]


def test_with_two_parts_the_second_is_under_way_while_the_first_is_computed() -> None:
    for found in on_ranks(2, spans_of, 2):
        _words, out_1, out_2, back_1, back_2, grad_2, grad_1, grad_out_2, grad_out_1 = found.launched
        first, second = found.forward
        assert out_1.start < out_2.start < first.end <= back_1.start < second.end <= back_2.start
        second, first = found.backward  # the way back is the other way round
        assert grad_2.start < grad_1.start < second.end <= grad_out_2.start < first.end <= grad_out_1.start


def test_with_one_part_nothing_travels_while_experts_are_computed() -> None:
    for found in on_ranks(2, spans_of, 1):
        _words, out, back, grad, grad_out = found.exchanges
        (forward,), (backward,) = found.forward, found.backward
        assert out.end <= forward.start and forward.end <= back.start
        assert grad.end <= backward.start and backward.end <= grad_out.start
        assert found.under_computation == 0


def test_overlap_is_the_time_in_common() -> None:
    assert overlap([Span(0, 4), Span(10, 12)], [Span(3, 11)]) == 2


def count(rank: int) -> tuple[Traffic, int]:
    block, x = shared_block(1), torch.randn(TOKENS, D, requires_grad=True)
    with counted() as traffic:
        _, routing = block(x)
        block(x)[0].sum().backward()
        distributed.all_reduce(torch.ones(100))
    (load,) = routing.load
    return traffic, int(load.served[1 - rank :: 2].sum())


def test_bytes_that_leave_a_rank_are_counted() -> None:
    (traffic, away), (other, to_here) = on_ranks(2, count)
    # Two passes there and back, one of them with gradients: what a rank was sent, it sends back.
    rows = 2 * (away + to_here) + (away + to_here)
    assert traffic.exchanged == other.exchanged == 2 * WORDS + rows * D * 4
    assert traffic.reduced == 2 * 1 / 2 * 400
    assert traffic.exchange_s > 0 and traffic.reduce_s > 0


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        (1, ["alone"]),
        (2, ["data parallel", "experts over 2", "experts over 2, 2 parts"]),
        (4, ["data parallel", "experts over 2", "experts over 4", "experts over 4, 2 parts"]),
    ],
)
def test_ways_of_so_many_ranks(ranks: int, names: list[str]) -> None:
    assert [str(way) for way in ways(ranks)] == names
    assert all(isinstance(way, Way) and way.ranks == ranks for way in ways(ranks))
