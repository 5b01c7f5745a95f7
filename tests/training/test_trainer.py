"""Starting from a checkpoint: fine-tuning, and what does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq_cli import train

from smoe_mt.errors import UserError
from smoe_mt.models import SMoETransformerModel
from smoe_mt.paths import user_dir
from smoe_mt.registration import register
from tests.conftest import TrainedRun
from tests.toy import make_toy_folder

pytestmark = pytest.mark.slow

SIZES = "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64"
OPTIONS = f"--arch smoe_transformer_tiny {SIZES} --max-source-positions 64 --max-target-positions 64 --dropout 0"
OPTIONS += (
    " --criterion stratified_routing --optimizer adam --lr-scheduler fixed --max-tokens 500 --cpu --num-workers 0"
)
OPTIONS += " --no-progress-bar --no-epoch-checkpoints"

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Trains in this process and returns its last checkpoint."""
    register()  # again, now that fairseq_cli.train is imported: a user dir that has been loaded is not loaded again

    def run_main(data: Path, options: str) -> dict[str, Any]:
        command = f"fairseq-train {data} --user-dir {user_dir()} --task many_to_many_translation {OPTIONS} {options}"
        monkeypatch.setattr(sys, "argv", f"{command} --save-dir {tmp_path}".split())
        train.cli_main()
        return torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)

    return run_main


def test_fine_tuning_starts_from_the_weights_alone(run: Train, trained_run: TrainedRun) -> None:
    """With a learning rate of nearly 0 the weights stay what they were; updates and epochs are counted anew."""
    parent = trained_run.folder / "checkpoint_last.pt"
    tuned = run(
        trained_run.data, f"--strata 2,2 --finetune-from-model {parent} --lr 1e-12 --max-update 1 --disable-validation"
    )
    before = torch.load(parent, weights_only=True)
    assert before["optimizer_history"][-1]["num_updates"] == 60
    assert tuned["optimizer_history"][-1]["num_updates"] == 1
    assert tuned["extra_state"]["train_iterator"]["epoch"] == 1
    for name, weights in before["model"].items():
        assert torch.allclose(weights, tuned["model"][name], atol=1e-9), name


@pytest.mark.parametrize(("criterion", "times"), [("stratified_routing", 1), ("label_smoothed_cross_entropy", 0)])
def test_logits_share_memory_where_the_criterion_keeps_none(
    run: Train, toy_text: Path, monkeypatch: pytest.MonkeyPatch, criterion: str, times: int
) -> None:
    asked = []
    monkeypatch.setattr(SMoETransformerModel, "reuse_memory_of_logits", lambda model: asked.append(model))
    run(toy_text, f"--strata 2,2 --criterion {criterion} --lr 1e-3 --max-update 1 --disable-validation")
    assert len(asked) == times


def test_its_best_checkpoint_is_its_own(run: Train, trained_run: TrainedRun, tmp_path: Path) -> None:
    """However good the model was that it started from."""
    parent = trained_run.folder / "checkpoint_best.pt"
    tuned = run(trained_run.data, f"--strata 2,2 --finetune-from-model {parent} --lr 1 --max-update 1")
    best_before = torch.load(parent, weights_only=True)["extra_state"]["best"]
    assert tuned["extra_state"]["best"] == tuned["extra_state"]["val_loss"] > best_before
    assert (tmp_path / "checkpoint_best.pt").is_file()


def test_a_checkpoint_that_is_not_there(run: Train, trained_run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"parent\.pt: there is no such checkpoint"):
        run(trained_run.data, f"--finetune-from-model {tmp_path}/parent.pt --lr 1 --max-update 1")


def test_a_checkpoint_of_another_model(run: Train, trained_run: TrainedRun) -> None:
    with pytest.raises(UserError, match="a checkpoint of another model than this one"):
        run(
            trained_run.data,
            f"--strata 2,2,2 --finetune-from-model {trained_run.folder}/checkpoint_last.pt --lr 1 --max-update 1",
        )


def test_a_checkpoint_of_another_vocabulary(run: Train, trained_run: TrainedRun, tmp_path: Path) -> None:
    other = make_toy_folder(tmp_path / "other", words=25, seed=9)
    with pytest.raises(UserError, match="another vocabulary"):
        run(other, f"--strata 2,2 --finetune-from-model {trained_run.folder}/checkpoint_last.pt --lr 1 --max-update 1")


def test_update_freq_comes_from_the_tokens_an_update(run: Train, trained_run: TrainedRun) -> None:
    state = run(
        trained_run.data, "--strata 2,2 --tokens-per-update 2000 --lr 0.001 --max-update 2 --disable-validation"
    )
    assert state["cfg"]["optimization"]["update_freq"] == [4]
    assert state["extra_state"]["train_iterator"]["iterations_in_epoch"] == 8


def test_a_run_goes_on_with_another_adam(run: Train, trained_run: TrainedRun) -> None:
    """The checkpoint of one optimiser is taken up by the other, both ways."""
    for number, optimizer in enumerate(("fused_adam", "adam", "fused_adam"), start=1):
        options = f"--strata 2,2 --lr 0.001 --max-update {2 * number} --disable-validation --optimizer {optimizer}"
        state = run(trained_run.data, options)
        assert {one["step"] for one in state["last_optimizer_state"]["state"].values()} == {2 * number}
