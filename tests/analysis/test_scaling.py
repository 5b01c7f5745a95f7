"""What training on many devices would cost: against bytes counted on two ranks, a real optimiser's state, and by sense."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench_ranks import Training, Way, counted
from benchmarks.local_ranks import on_ranks
from benchmarks.measuring import MIB
from benchmarks.models import SYSTEMS, toy_task
from smoe_mt import cli
from smoe_mt.analysis.hardware import Hardware, preset
from smoe_mt.analysis.scaling import (
    Forecast,
    Setup,
    busiest,
    expert_flops,
    expert_loads,
    facts,
    forecast,
    memory_bytes,
    rank_loads,
)
from smoe_mt.moe.strata import expected_visits
from tests.analysis.test_cost import tiny

VOCABULARY = 24
H100 = preset("h100", half=True)
SETUP = Setup(ranks=8, shared_by=4, chunks=1, tokens=1000, update_freq=1, precision="bf16", length=32)


def predicted(setup: Setup = SETUP, on: Hardware = H100, **settings: Any) -> Forecast:
    return forecast(facts(tiny(**{"strata": "4,12", **settings}), VOCABULARY, setup.length), setup, on)


# --- against two real ranks ---

# Two experts, two choices: every token meets both, one on each rank, whatever the gate says.
CERTAIN = {"moe": "vanilla", "num_experts": 2, "capacity_factor": 0.0}
ARGUMENTS = SimpleNamespace(
    vocabulary=VOCABULARY, size="tiny", tokens=64, length=16, device="cpu", dtype="fp32", backend="auto"
)


def real_step(rank: int, way: Way) -> tuple[float, float, dict[str, float], int]:
    """Bytes exchanged and reduced, what is held, and the elements of the reduction's buffer."""
    SYSTEMS["smoe_4_12"] = CERTAIN  # of this forked process alone
    training = Training(way, rank, ARGUMENTS)  # type: ignore[arg-type]
    with counted() as traffic:
        training.step()
    buffer = training.reduce.__self__.buffer  # type: ignore[attr-defined]
    return traffic.exchanged, traffic.reduced, training.held(), buffer.numel()


@pytest.mark.ranks
@pytest.mark.parametrize("way", [Way(2), Way(2, 2), Way(2, 2, chunks=2), Way(4, 2)], ids=str)
def test_bytes_and_parameters_are_those_of_real_ranks(way: Way) -> None:
    cfg = tiny(moe_freq=2, **CERTAIN)
    for side in ("encoder", "decoder"):
        for name, value in (("embed_dim", 128), ("ffn_embed_dim", 512), ("layers", 2), ("attention_heads", 4)):
            setattr(cfg, f"{side}_{name}", value)
    setup = Setup(way.ranks, way.shared_by, way.chunks, ARGUMENTS.tokens, 1, "fp32", ARGUMENTS.length)
    model = facts(cfg, len(toy_task(VOCABULARY).source_dictionary), ARGUMENTS.length)
    expected = forecast(model, setup, replace(H100, devices_per_machine=way.ranks))
    for exchanged, reduced, held, buffer in on_ranks(way.ranks, real_step, way):
        assert expected.exchange_bytes_within + expected.exchange_bytes_between == exchanged
        assert expected.reduce_bytes == reduced
        assert (expected.shared_parameters + expected.expert_parameters) / 1e6 == held["held M"]
        assert expected.optimizer_bytes / MIB == held["optimiser MiB"]
        assert expected.buffer_bytes == 4 * buffer


def test_ranks_hold_the_parameters_of_their_own_sizes() -> None:
    settings = {"moe": "hmoe", "num_experts": 4, "hmoe_sizes": "1,2,3,6", "hmoe_routing": "top_k", "top_k": 1}
    model = facts(tiny(**settings), VOCABULARY, SETUP.length)  # d 16; four blocks of 96 units: 8, 16, 24, 48
    assert model.held(1)[1] == 4 * (96 * 33 + 4 * 16)
    assert model.held(2)[1] == 4 * (64 * 33 + 2 * 16)
    assert sum(model.stacks_held(1)) == model.held(1)[1]
    assert expert_flops(model, 1) == 4 * 24 * 4 * 16 and expert_flops(model, 2) == 4 * 2 * 16 * 4 * 16


# --- loads of ranks ---


@pytest.mark.parametrize("strata", [(16,), (4, 12), (4, 4, 4, 4)])
def test_loads_add_up_to_the_expected_visits(strata: tuple[int, ...]) -> None:
    assert sum(expert_loads(strata)) == pytest.approx(expected_visits(strata))
    for in_turn in (True, False):
        assert sum(rank_loads(strata, 4, in_turn)) == pytest.approx(expected_visits(strata))


def test_dealt_out_in_turn_ranks_have_the_same_load_and_in_runs_not() -> None:
    for strata in ((4, 12), (4, 4, 4, 4)):
        assert busiest(strata, 4) == pytest.approx(1)
    assert busiest((4, 4, 4, 4), 4, in_turn=False) == pytest.approx(1.92)
    assert busiest((4, 12), 4, in_turn=False) == pytest.approx(16 / 15)


# --- by sense ---


def test_an_exchange_stays_in_a_machine_where_it_can() -> None:
    inside, spanning = (
        predicted(),
        predicted(replace(SETUP, ranks=16, shared_by=16), replace(H100, devices_per_machine=8)),
    )
    assert inside.exchange_bytes_between == 0 < inside.exchange_bytes_within
    assert spanning.exchange_bytes_between / spanning.exchange_bytes_within == pytest.approx(8 / 7)
    straddling = predicted(replace(SETUP, ranks=6, shared_by=3), replace(H100, devices_per_machine=4))
    assert straddling.exchange_bytes_between > straddling.exchange_bytes_within == 0  # rank 3 is alone in its machine


def test_more_ranks_that_share_hold_less_and_send_more_rows_but_fewer_gradients() -> None:
    shared = [predicted(replace(SETUP, shared_by=n)) for n in (1, 2, 4, 8)]
    assert [s.expert_parameters for s in shared] == [shared[0].expert_parameters // n for n in (1, 2, 4, 8)]
    for less, more in pairwise(shared):
        assert more.memory_bytes < less.memory_bytes
        assert more.reduce_bytes < less.reduce_bytes
        assert more.exchange_bytes_within > less.exchange_bytes_within
    assert shared[0].exchange_s == 0 and shared[0].exchanges == 0


def test_parts_hide_exchanges_under_computation() -> None:
    one, two = predicted(), predicted(replace(SETUP, chunks=2))
    assert one.hidden_s == 0 < two.hidden_s < two.exchange_s
    assert two.exchanges > one.exchanges


def test_faster_hardware_is_faster() -> None:
    slow = predicted().seconds
    for field in ("flops_per_s", "memory_bytes_per_s", "within_bytes_per_s"):
        assert predicted(on=replace(H100, **{field: 2 * getattr(H100, field)})).seconds < slow
    assert predicted(on=replace(H100, latency_s=1)).seconds > slow


def test_more_batches_an_update_are_more_efficient() -> None:
    one, four = predicted(), predicted(replace(SETUP, update_freq=4))
    assert four.efficiency > one.efficiency and four.tokens_per_update == 4 * one.tokens_per_update
    assert four.memory_bytes == one.memory_bytes and four.reduce_bytes == one.reduce_bytes


def test_one_device_alone_sends_nothing() -> None:
    alone = predicted(Setup(1, 1, 1, 1000, 1, "fp32", 32))
    assert alone.exchange_bytes_within == alone.reduce_bytes == alone.reduce_s == alone.buffer_bytes == 0


def test_uneven_experts_slow_the_busiest_rank_down() -> None:
    even, uneven = predicted(strata="4,4"), predicted(strata="4,5")
    assert even.flops < uneven.flops and uneven.efficiency < even.efficiency


def test_what_does_not_fit_is_said() -> None:
    assert not predicted().does_not_fit
    assert "GB in 0 GB of memory" in predicted(on=replace(H100, memory_bytes=1e6)).does_not_fit


def test_memory_of_activations_grows_with_tokens_alone() -> None:
    model = facts(tiny(strata="4,12"), VOCABULARY, 32)
    small, large = (memory_bytes(model, replace(SETUP, tokens=tokens)) for tokens in (100, 300))
    assert large["activation_bytes"] == pytest.approx(3 * small["activation_bytes"])
    assert {k: v for k, v in small.items() if k != "activation_bytes"} == {
        k: v for k, v in large.items() if k != "activation_bytes"
    }


# --- the verb ---

TINY = ["--vocab-size", "500", "model.encoder_layers=2", "model.decoder_layers=2"]


def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", *TINY, "--ranks", "8", "16", "--expert-parallel-size", "1", "8", "--format", "json"]
    assert cli.main([*command, "common.bf16=true", "task.tokens_per_update=104000"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["precision"] == "bf16" and plan["hardware"]["devices_per_machine"] == 8
    assert [(row["ranks"], row["expert_parallel_size"]) for row in plan["rows"]] == [(8, 1), (8, 8), (16, 1), (16, 8)]
    assert [row["update_freq"] for row in plan["rows"]] == [4, 4, 2, 2]
    assert {row["tokens_per_update"] for row in plan["rows"]} == {104_000}


def test_a_plan_as_a_table_for_own_hardware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {
        "flops_per_s": 1e12,
        "memory_bytes": 1e6,
        "memory_bytes_per_s": 1e11,
        "within_bytes_per_s": 1e10,
        "between_bytes_per_s": 1e9,
        "latency_s": 1e-5,
        "devices_per_machine": 2,
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    command = ["plan", *TINY, "--ranks", "4", "--hardware", str(tmp_path / "own.json"), "--latency-s", "0.5"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "1 TFLOP/s" in printed and "2 a machine" in printed and "does not fit" in printed and "fp32" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "6", "--expert-parallel-size", "4"], "6 ranks are no multiple of task.expert_parallel_size=4"),
        (["--ranks", "32", "--expert-parallel-size", "32"], "16 experts cannot be spread"),
        (["model=dense", "--ranks", "2", "--expert-parallel-size", "2"], "a dense model has no experts"),
        (["--ranks", "0"], "argument --ranks: '0' must be a whole number from 1"),
        (["--hardware", "abacus"], "one of h200, h100, a100, or a JSON file"),
        (["--latency-s", "0"], "argument --latency-s: '0' must be a number above 0"),
        (["dataset.max_tokens=null"], "how large is a batch? give dataset.max_tokens"),
    ],
)
def test_what_cannot_be_planned(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TINY, *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_file_of_hardware_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.json").write_text('{"flops_per_s": 1, "wings": 2}')
    assert cli.main(["plan", *TINY, "--hardware", str(tmp_path / "own.json")]) == 2
    error = capsys.readouterr().err
    assert "wings" in error and "latency_s" in error
