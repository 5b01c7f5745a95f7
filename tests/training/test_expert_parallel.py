"""Training with experts spread over ranks is training in one process: weights, optimiser state, whatever the ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt.generation import Translator
from smoe_mt.moe import MoE
from smoe_mt.moe.parallel import ExpertRanks, expert_mesh
from smoe_mt.paths import user_dir
from smoe_mt.training.disk import checkpoint_bytes
from tests.ranks import on_ranks

SIZES = "--encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32"
OPTIONS = f"--task many_to_many_translation --arch smoe_transformer_tiny {SIZES} --dropout 0 --attention-dropout 0 --cpu"
OPTIONS += " --criterion stratified_routing --max-source-positions 64 --max-target-positions 64 --num-workers 0"
OPTIONS += " --optimizer adam --lr 0.01 --lr-scheduler inverse_sqrt --warmup-updates 2 --max-tokens 60 --clip-norm 0.5"
OPTIONS += " --no-progress-bar --log-interval 1000 --no-epoch-checkpoints --disable-validation --cmr-gate-dropout 0"
OPTIONS += " --save-interval-updates 2 --keep-interval-updates 10"
MODELS = {
    "stratified": ["--moe", "stratified", "--strata", "2,4", "--capacity-factor", "1"],
    "cmr": ["--moe", "cmr", "--num-experts", "5"],
    "stacking": ["--moe", "stacking", "--strata", "4,4"],
    "switch": ["--moe", "switch", "--num-experts", "4", "--capacity-factor", "1"],
}


def train(rank: int, ranks: int, shared_by: int, data: Path, folder: Path, updates: int, *options: str) -> None:
    """fairseq-train as one of several ranks; 4 batches make an update whatever their number."""
    from fairseq_cli.train import cli_main

    sys.argv = ["fairseq-train", str(data), "--user-dir", str(user_dir()), *OPTIONS.split(), *options]
    sys.argv += ["--save-dir", str(folder), "--max-update", str(updates), "--update-freq", str(4 // ranks)]
    sys.argv += ["--expert-parallel-size", str(shared_by)]
    if ranks > 1:
        sys.argv += f"--distributed-world-size {ranks} --distributed-rank {rank} --distributed-no-spawn".split()
        sys.argv += ["--distributed-init-method", "env://", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    cli_main()


def trained(data: Path, folder: Path, ranks: int, shared_by: int, updates: int, *options: str) -> dict[str, Any]:
    """The last checkpoint."""
    on_ranks(ranks, train, ranks, shared_by, data, folder, updates, *options)
    state: dict[str, Any] = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    return state


def assert_same(state: dict[str, Any], other: dict[str, Any]) -> None:
    """Up to rounding, which Adam makes more of where a gradient is nearly 0."""
    for name, weight in state["model"].items():
        assert torch.allclose(weight, other["model"][name], atol=2e-4), name
    moments, others = (each["last_optimizer_state"]["state"] for each in (state, other))
    assert moments.keys() == others.keys()
    for number, entry in moments.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.allclose(entry[key], others[number][key], atol=2e-4), (number, key)
    places = [each["extra_state"]["train_iterator"] for each in (state, other)]
    assert places[0]["batches_in_epoch"] == places[1]["batches_in_epoch"]


@pytest.fixture(scope="module")
def alone(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stratified model trained by one process, a checkpoint after each second update."""
    folder = tmp_path_factory.mktemp("alone")
    trained(toy_text, folder, 1, 1, 4, *MODELS["stratified"])
    return folder


@pytest.mark.parametrize("ranks, shared_by", [(2, 2), (4, 2), (4, 4)])
def test_ranks_that_share_experts_train_as_one_process(
    ranks: int, shared_by: int, alone: Path, toy_text: Path, tmp_path: Path
) -> None:
    together = trained(toy_text, tmp_path, ranks, shared_by, 4, *MODELS["stratified"])
    assert_same(torch.load(alone / "checkpoint_last.pt", weights_only=True), together)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "stratified"])
def test_every_block_trains_on_ranks_as_in_one_process(model: str, toy_text: Path, tmp_path: Path) -> None:
    before = trained(toy_text, tmp_path / "alone", 1, 1, 3, *MODELS[model])
    assert_same(before, trained(toy_text, tmp_path / "together", 2, 2, 3, *MODELS[model]))


@pytest.mark.parametrize("first, then", [((4, 2), (1, 1)), ((1, 1), (4, 4)), ((2, 2), (4, 2)), ((2, 1), (2, 2))])
def test_a_run_goes_on_with_other_ranks(
    first: tuple[int, int], then: tuple[int, int], alone: Path, toy_text: Path, tmp_path: Path
) -> None:
    halfway = trained(toy_text, tmp_path, *first, 2, *MODELS["stratified"])
    name = next(path.name for path in alone.glob("checkpoint_*_2.pt"))
    assert_same(torch.load(alone / name, weights_only=True), halfway)
    end = trained(toy_text, tmp_path, *then, 4, *MODELS["stratified"])
    assert_same(torch.load(alone / "checkpoint_last.pt", weights_only=True), end)


def test_validation_translates_on_ranks_that_share_experts(toy_text: Path, tmp_path: Path) -> None:
    """Each rank translates batches of its own, with searches of different lengths."""
    options = [*MODELS["stratified"], "--eval-bleu", "--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
    options += ["--max-tokens-valid", "40"]
    scores = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        on_ranks(ranks, validated, ranks, toy_text, folder, options)
        scores.append(torch.load(folder / "checkpoint_best.pt", weights_only=True)["extra_state"]["val_loss"])
    assert scores[0] == pytest.approx(scores[1], abs=0.5)


def validated(rank: int, ranks: int, data: Path, folder: Path, options: list[str]) -> None:
    global OPTIONS
    OPTIONS = OPTIONS.replace(" --disable-validation", "")
    train(rank, ranks, ranks, data, folder, 2, *options)


def test_ranks_that_share_experts_translate_what_one_process_does(alone: Path, toy_text: Path) -> None:
    on_ranks(2, translate_other_lines, alone, toy_text)


def translate_other_lines(rank: int, run: Path, data: Path) -> None:
    """The second rank has more to do: the first one serves it."""
    lines = (data / "text" / "test.aa-en.aa").read_text().splitlines()
    lines = lines[:2] if rank == 0 else lines[2:]
    whole = Translator.from_pretrained(run, device="cpu").translate(lines, "aa", "en")
    sharing = Translator.from_pretrained(run, device="cpu", expert_parallel_size=2)
    assert sharing.translate(lines, "aa", "en", max_tokens=20) == whole
    sharing.serve()


def test_a_checkpoint_is_as_large_as_on_one_rank() -> None:
    whole = checkpoint_bytes(MoE(8, 16, 5), with_optimiser=True)
    assert on_ranks(2, bytes_of_a_checkpoint) == [whole, whole]


def bytes_of_a_checkpoint(rank: int) -> int:
    block = MoE(8, 16, 5)
    block.experts.spread(ExpertRanks(expert_mesh(2, "cpu")))
    return checkpoint_bytes(block, with_optimiser=True)
