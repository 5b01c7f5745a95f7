"""Training with experts spread over ranks is training in one process: weights, optimiser state, whatever the ranks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.local_ranks import on_ranks
from smoe_mt.errors import UserError
from smoe_mt.generation import Translator
from smoe_mt.moe import MoE
from smoe_mt.moe.distributed.expert_parallel import shard
from smoe_mt.moe.distributed.placement import ExpertRanks, expert_mesh
from smoe_mt.training.disk import checkpoint_bytes
from smoe_mt.training.expert_parallel import buckets
from tests.training.forked import config, fork, start

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

BATCHES = 4  # of an update
OPTIONS = "--clip-norm 0.5 --save-interval-updates 2 --keep-interval-updates 10 --log-interval 1000"
DROPS = "--capacity-factor 1"
KINDS = {
    "stratified": "--strata 2,4",  # no multiple of four ranks
    "vanilla": "--num-experts 5",
    "switch": "",
    "cmr": "",
    "stacking": "--strata 4,4",
    "xmoe": "--num-experts 5 --xmoe-threshold 0.6",
    "mpoe": "--num-experts 5 --mpoe-central-mask 0.5",
    "stratified_mhmoe": "--strata 2,3",
    "stratified_pesc": "--strata 2,3 --pesc-dropout 0",
    "stratified_hmoe": "--strata 3,2 --hmoe-sizes 1,2,1,1,4",  # no rank has experts of all sizes
    "dynmoe": "--num-experts 5 --dynmoe-start 2 --dynmoe-adapt-every 2 --dynmoe-adapt-window 2",
}
Way = tuple[int, int]  # ranks, and how many of them share experts
WAYS: Mapping[Way, Sequence[str]] = {
    (1, 1): tuple(KINDS),
    (2, 1): ("stratified",),
    (2, 2): tuple(KINDS),
    (4, 2): ("stratified",),
    (4, 4): ("stratified",),
}
SPREAD = ((1, 1), (2, 2), (4, 4))
RESUMED = [(first, then) for first in SPREAD for then in SPREAD if first != then]
RESUMED += [((4, 2), (2, 1)), ((2, 1), (4, 2))]


def train(rank: int, jobs: Sequence[tuple[Path, Way, str, int, str]], data: Path) -> None:
    """One training after the other: (folder, ranks, kind, updates, further options)."""
    for folder, (ranks, shared_by), kind, updates, more in jobs:
        options = f"{OPTIONS} {DROPS} {KINDS[kind]} --expert-parallel-size {shared_by} --max-update {updates} {more}"
        cfg = config(data, folder, kind, options)
        cfg.optimization.update_freq = [BATCHES // ranks]
        start(cfg)


def train_all(jobs: Sequence[tuple[Path, Way, str, int, str]], data: Path, logs: Path) -> None:
    """All trainings, those of equal numbers of ranks in one start."""
    for ranks in sorted({way[0] for _, way, *_ in jobs}):
        mine = [job for job in jobs if job[1][0] == ranks]
        fork(ranks, partial(train, jobs=mine, data=data), logs / str(ranks)).succeed()


@pytest.fixture(scope="module")
def trained(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KIND-RANKS-SHARED: four updates, a checkpoint after every second one."""
    home = tmp_path_factory.mktemp("trained")
    jobs = [(folder(home, kind, way), way, kind, 4, "--disable-validation") for way in WAYS for kind in WAYS[way]]
    train_all(jobs, toy_text, home / "logs")
    return home


def folder(home: Path, kind: str, way: Way) -> Path:
    return home / f"{kind}-{way[0]}-{way[1]}"


def last(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoint_last.pt", weights_only=True)
    return state


def assert_same(state: dict[str, Any], other: dict[str, Any]) -> None:
    """Up to rounding, which Adam makes more of where a gradient is nearly 0."""
    assert state["model"].keys() == other["model"].keys()
    for name, weight in state["model"].items():
        assert torch.allclose(weight, other["model"][name], atol=2e-4), name
    moments, others = (each["last_optimizer_state"]["state"] for each in (state, other))
    assert moments.keys() == others.keys()
    for number, entry in moments.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.allclose(entry[key], others[number][key], atol=2e-4), (number, key)
    places = [each["extra_state"]["train_iterator"] for each in (state, other)]
    assert places[0]["batches_in_epoch"] == places[1]["batches_in_epoch"]
    assert state["optimizer_history"][-1]["num_updates"] == other["optimizer_history"][-1]["num_updates"]


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for way in WAYS for kind in WAYS[way] if way != (1, 1)])
def test_ranks_that_share_experts_train_as_one_process(kind: str, way: Way, trained: Path) -> None:
    alone, together = last(folder(trained, kind, (1, 1))), last(folder(trained, kind, way))
    assert alone["optimizer_history"][-1]["num_updates"] == 4
    assert_same(alone, together)


def test_a_checkpoint_does_not_remember_the_ranks(trained: Path) -> None:
    assert last(folder(trained, "stratified", (4, 4)))["cfg"]["task"]["expert_parallel_size"] == 1


@pytest.fixture(scope="module")
def resumed(trained: Path, toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates with some ranks, two more with others."""
    home = tmp_path_factory.mktemp("resumed")
    jobs = []
    for first, then in RESUMED:
        run = home / f"{first}-{then}".replace(" ", "")
        run.mkdir()
        halfway = next(folder(trained, "stratified", first).glob("checkpoint_*_2.pt"))
        shutil.copy(halfway, run / "checkpoint_last.pt")
        jobs.append((run, then, "stratified", 4, "--disable-validation"))
    train_all(jobs, toy_text, home / "logs")
    return home


@pytest.mark.parametrize(("first", "then"), RESUMED)
def test_a_run_goes_on_with_other_ranks(first: Way, then: Way, trained: Path, resumed: Path) -> None:
    assert_same(last(folder(trained, "stratified", (1, 1))), last(resumed / f"{first}-{then}".replace(" ", "")))


def test_validation_translates_on_ranks_that_share_experts(toy_text: Path, tmp_path: Path) -> None:
    """Each rank translates batches of its own, with searches of different lengths."""
    more = "--eval-bleu --best-checkpoint-metric bleu --maximize-best-checkpoint-metric --max-tokens-valid 40"
    train_all([(tmp_path / str(n), (n, n), "stratified", 2, more) for n in (1, 2)], toy_text, tmp_path / "logs")
    scores = [last(tmp_path / str(ranks))["extra_state"]["val_loss"] for ranks in (1, 2)]
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


def test_half_precision_on_ranks_that_share_experts(toy_text: Path, tmp_path: Path) -> None:
    """With float32 copies of the weights and without; and where the scale of the loss begins too high."""
    half = "--disable-validation --fp16 --fp16-init-scale"
    kinds = {"copies": f"{half} 16", "in-place": f"{half} 16 --memory-efficient-fp16", "overflow": f"{half} 1048576"}
    jobs = [(tmp_path / f"{kind}-{n}", (n, n), "stratified", 3, kinds[kind]) for n in (1, 2) for kind in kinds]
    train_all(jobs, toy_text, tmp_path / "logs")
    for kind in kinds:
        alone, together = last(tmp_path / f"{kind}-1"), last(tmp_path / f"{kind}-2")
        scales = [each["last_optimizer_state"]["loss_scale"] for each in (alone, together)]
        assert together["optimizer_history"][-1]["num_updates"] == 3
        if kind == "overflow":
            assert max(scales) < 1048576 and max(scales) <= 2 * min(scales)  # a rank adds up half as many batches
            continue
        assert scales[0] == scales[1]
        for name, weight in alone["model"].items():
            if "k_proj.bias" in name:  # softmax does not see it: its gradient is noise
                continue
            assert (weight.float() - together["model"][name].float()).abs().mean() < 1e-3, name


def test_ranks_that_share_experts_translate_what_one_process_does(trained: Path, toy_text: Path) -> None:
    on_ranks(2, translate_other_lines, folder(trained, "stratified", (1, 1)), toy_text)


def translate_other_lines(rank: int, run: Path, data: Path) -> None:
    """The second rank has more to do: the first one serves it."""
    lines = (data / "text" / "test.aa-en.aa").read_text().splitlines()
    lines = lines[:2] if rank == 0 else lines[2:]
    whole = Translator.from_pretrained(run, device="cpu").translate(lines, "aa", "en")
    sharing = Translator.from_pretrained(run, device="cpu", expert_parallel_size=2)
    assert sharing.translate(lines, "aa", "en", max_tokens=20) == whole
    sharing.serve()


def test_gradients_that_are_reduced_together() -> None:
    assert buckets([3, 3, 3, 9, 1, 1], 6) == [[0, 1], [2], [3], [4, 5]]
    assert buckets([], 6) == []


def test_experts_to_share_need_ranks(trained: Path) -> None:
    with pytest.raises(UserError, match="needs as many ranks: start them with torchrun"):
        Translator.from_pretrained(folder(trained, "cmr", (1, 1)), device="cpu", expert_parallel_size=2)


def test_a_checkpoint_is_as_large_as_on_one_rank() -> None:
    whole = checkpoint_bytes(MoE(8, 16, 5), with_optimiser=True)
    assert on_ranks(2, bytes_of_a_checkpoint) == [whole, whole]


def bytes_of_a_checkpoint(rank: int) -> int:
    block = MoE(8, 16, 5)
    shard(block.experts, ExpertRanks(expert_mesh(2, "cpu")))
    return checkpoint_bytes(block, with_optimiser=True)
