"""An update on n ranks that gather m batches each is that of one process that gathers n * m, for every ``--moe``."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq_cli import train

from smoe_mt.training.trainer import SMoETrainer
from tests.toy import make_toy_folder
from tests.training.forked import KINDS, config, fork, start

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

# A capacity that drops slots, and sentences of many lengths.
DROPS = "--capacity-factor 0.5 --balance-weight 0.1 --clip-norm 1 --log-interval 1 --no-save --max-update 3"
BATCHES = 8  # of an update
VALIDATED = "stratified"
FOUR_RANKS = ("cmr", "stratified")
EPOCH = 13  # batches: two updates, the second of which has batches for some of the ranks alone
CLOCKS = ("wps", "ups", "wall", "train_wall")
SIZES = ("wpb", "bsz")  # of a step of all ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("ranks") / "data", sizes={"train": 46, "valid": 9, "test": 9})


def write_down(patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of each update: what its batches' gradients add up to (`by_hand`, where its rank has all), `gradients` before they are clipped, `batches` of the rank, `keys` of its logs, what was logged (`output`
    of the update, `metrics` so far) and `weights`; `valid`, what a validation after it logged."""
    written: list[dict[str, Any]] = []
    clip, step, log, stats = (
        SMoETrainer.clip_grad_norm,
        SMoETrainer.train_step,
        SMoETrainer._aggregate_logging_outputs,
        train.get_valid_stats,
    )

    def clip_grad_norm(self: SMoETrainer, norm: float) -> Any:
        weights = self.get_model().named_parameters()
        written[-1]["gradients"] = {name: weight.grad.clone() for name, weight in weights if weight.grad is not None}
        return clip(self, norm)

    def train_step(self: SMoETrainer, samples: Any, *args: Any) -> Any:
        written.append({"keys": [], "batches": sum(map(bool, samples))})
        if self.data_parallel_world_size == 1:
            written[-1]["by_hand"] = summed_gradients(self, samples)
        output = step(self, samples, *args)
        logged = {key: float(value) for key, value in metrics.get_smoothed_values("train_inner").items()}
        weights = {name: value.clone() for name, value in self.get_model().state_dict().items()}
        written[-1] |= {"output": {key: float(output[key]) for key in output}, "metrics": logged, "weights": weights}
        return output

    def aggregate(self: SMoETrainer, logs: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        written[-1]["keys"].append(list(logs[0]))
        return log(self, logs, *args, **kwargs)

    def get_valid_stats(cfg: Any, trainer: Any, found: dict[str, Any], tracking_best: bool) -> Any:
        written[-1]["valid"] = {key: float(value) for key, value in found.items() if not torch.is_tensor(value)}
        return stats(cfg, trainer, found, tracking_best)

    patch.setattr(SMoETrainer, "clip_grad_norm", clip_grad_norm)
    patch.setattr(SMoETrainer, "train_step", train_step)
    patch.setattr(SMoETrainer, "_aggregate_logging_outputs", aggregate)
    patch.setattr(train, "get_valid_stats", get_valid_stats)
    return written


def summed_gradients(trainer: SMoETrainer, samples: list[Any]) -> dict[str, torch.Tensor]:
    """Per target token, one batch after the other through a copy of the model."""
    model = copy.deepcopy(trainer.get_model()).train()
    size = 0
    for sample in samples:
        loss, tokens, _ = trainer.get_criterion().train().forward(model, sample)
        loss.backward()
        size += tokens
    return {name: weight.grad / size for name, weight in model.named_parameters() if weight.grad is not None}


Written = dict[tuple[str, int], list[list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """(kind, ranks) -> what each rank wrote down of three updates over two epochs. One start for each number of ranks."""
    folder = tmp_path_factory.mktemp("runs")
    validation = {VALIDATED: "--eval-bleu --eval-bleu-sentences 2"}
    configs = {
        kind: config(data, folder, kind, f"{DROPS} {validation.get(kind, '--disable-validation')}") for kind in KINDS
    }

    def run(rank: int, ranks: int) -> None:
        for kind in KINDS if ranks < 4 else FOUR_RANKS:
            with pytest.MonkeyPatch.context() as patch:
                notes = write_down(patch)
                configs[kind].optimization.update_freq = [BATCHES // ranks]
                start(configs[kind])
                torch.save(notes, folder / f"{kind}-{ranks}-{rank}.pt")

    found: Written = {}
    for ranks in (1, 2, 4):
        fork(ranks, partial(run, ranks=ranks), folder / f"logs{ranks}").succeed()
        for kind in KINDS if ranks < 4 else FOUR_RANKS:
            files = [folder / f"{kind}-{ranks}-{rank}.pt" for rank in range(ranks)]
            found[kind, ranks] = [torch.load(file, weights_only=True) for file in files]
    return found


def values(notes: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in notes.items() if key not in CLOCKS}


def summed(notes: dict[str, float]) -> dict[str, float]:
    """Of a validation, whose steps are of one batch a rank."""
    return {key: value for key, value in values(notes).items() if key not in SIZES}


def largest(tensors: dict[str, torch.Tensor]) -> float:
    return max(tensor.abs().max().item() for tensor in tensors.values())


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return largest({name: one[name].double() - other[name].double() for name in one})


MANY = [*((kind, 2) for kind in KINDS), *((kind, 4) for kind in FOUR_RANKS)]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_batches_are_added_up(written: Written, kind: str) -> None:
    for note in written[kind, 1][0]:
        assert apart(note["by_hand"], note["gradients"]) < 1e-6 * largest(note["gradients"])


@pytest.mark.parametrize(("kind", "ranks"), MANY)
def test_gradients_and_weights(written: Written, kind: str, ranks: int) -> None:
    """To rounding; Adam makes more of it where a gradient is all but 0."""
    for alone, together in zip(written[kind, 1][0], written[kind, ranks][0], strict=True):
        assert alone["gradients"].keys() == together["gradients"].keys()
        assert apart(alone["gradients"], together["gradients"]) < 1e-6 * largest(alone["gradients"])
        assert apart(alone["weights"], together["weights"]) < 1e-4


@pytest.mark.parametrize(("kind", "ranks"), MANY)
def test_everything_that_is_logged(written: Written, kind: str, ranks: int) -> None:
    for alone, together in zip(written[kind, 1][0], written[kind, ranks][0], strict=True):
        for what in ("output", "metrics"):
            assert values(together[what]) == pytest.approx(values(alone[what]), rel=2e-3), what
        assert summed(together.get("valid", {})) == pytest.approx(summed(alone.get("valid", {})), rel=2e-3)


def test_what_it_takes_is_there(written: Written) -> None:
    """Slots are dropped, a step has batches for some of the ranks alone, and validation translates."""
    notes = written["stratified", 1][0]
    assert all(0.1 < note["metrics"]["overflow"] < 1 for note in notes)
    assert [note["batches"] for note in notes] == [8, EPOCH - 8, 8]
    assert [note["batches"] for note in written["stratified", 4][3]] == [2, (EPOCH - 8) // 4, 2]
    assert "bleu/aa-en" in notes[-1]["valid"] and "nll_loss/en-bb" in notes[-1]["valid"]


def test_biases_that_balance_the_load_are_those_of_the_whole_batch(written: Written) -> None:
    for kind in ("vanilla", "xmoe"):
        biases = [
            {name: bias for name, bias in notes[0][-1]["weights"].items() if name.endswith("selection_bias")}
            for notes in (written[kind, 1], written[kind, 2])
        ]
        assert len(biases[0]) == 2 and largest(biases[0]) >= 0.05 and apart(*biases) == 0


@pytest.mark.parametrize(("kind", "ranks"), MANY)
def test_ranks_agree(written: Written, kind: str, ranks: int) -> None:
    """On gradients and weights bit for bit, and on the names of what they log, also where one has no batch."""
    first, *others = written[kind, ranks]
    assert all(note["keys"] for note in first)
    for notes in others:
        for one, other in zip(first, notes, strict=True):
            assert one["keys"] == other["keys"]
            assert apart(one["gradients"], other["gradients"]) == apart(one["weights"], other["weights"]) == 0
            assert values(one["output"]) == values(other["output"])
