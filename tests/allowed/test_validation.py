"""Settings that contradict each other are told before anything starts."""

from __future__ import annotations

import pytest

from smoe_mt import launch
from smoe_mt.errors import UserError
from smoe_mt.paths import configs

BEST = "checkpoint.best_checkpoint_metric"
MAXIMISE = "checkpoint.maximize_best_checkpoint_metric=true"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{BEST}=bleu", MAXIMISE, "task.eval_bleu=false"], "task.eval_bleu=true alone"),
        ([f"{BEST}=bleu"], "more is better"),
        ([MAXIMISE], "less is better"),
        ([f"{BEST}=blue"], "a checkpoint is the best by loss"),
        ([f"{BEST}=accuracy", MAXIMISE], "report_accuracy=true alone"),
        (["checkpoint.patience=3", "dataset.disable_validation=true"], "patience=3 goes by validation"),
        (["checkpoint.keep_last_epochs=3"], "no_epoch_checkpoints=true writes none"),
        (["checkpoint.save_interval_updates=0"], "save_interval_updates=0 writes none"),
        (["dataset.validate_after_updates=9000"], "after the last update"),
        (["optimization.max_update=0", "optimization.max_epoch=1"], "has to know the last update"),
        (["optimization.max_update=0", "lr_scheduler.total_num_update=9"], "has to|when does the training end"),
        (["checkpoint.write_checkpoints_asynchronously=true"], "half a checkpoint"),
        (["checkpoint.finetune_from_model=a.pt", "checkpoint.reset_optimizer=true"], "leave it out"),
    ],
)
def test_what_contradicts_itself_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        launch.compose(configs(), "quickstart", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [[], [f"{BEST}=bleu", MAXIMISE], [f"{BEST}=nll_loss"], [f"{BEST}=ppl/nso-en"]])
def test_what_can_be_done_is_not_refused(overrides: list[str]) -> None:
    launch.compose(configs(), "quickstart", overrides)
