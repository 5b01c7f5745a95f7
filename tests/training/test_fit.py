"""What is said of a checkpoint whose model is another one than that which is trained from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.training.fit import differences, misfits, refusal, warning
from tests.conftest import TrainedRun
from tests.training.test_trainer import Train, run

__all__ = ["run"]


def model(**settings: Any) -> dict[str, Any]:
    return {**asdict(SMoETransformerConfig()), "moe": "stratified", "strata": "2,2", **settings}


@pytest.mark.parametrize(
    ("setting", "theirs", "ours"),
    [
        ("encoder_embed_dim", 32, 64),
        ("decoder_attention_heads", 2, 4),
        ("activation_fn", "relu", "gelu"),
        ("strata", "2,2", "4"),
        ("moe_freq", 2, 1),
    ],
)
def test_a_setting_that_differs_is_named(setting: str, theirs: object, ours: object) -> None:
    found = differences(model(**{setting: theirs}), model(**{setting: ours}))
    assert found == {setting: (str(theirs), str(ours))}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"strata": "[2,2]"}, {"strata": "2,2"}),
        ({"dropout": 0.1}, {"dropout": 0.3}),
        ({"moe": "none", "moe_freq": 2}, {"moe": "none", "moe_freq": 1}),
    ],
)
def test_what_changes_no_output_is_no_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert not differences(model(**theirs), model(**ours))


def test_a_setting_that_was_not_given_has_its_default() -> None:
    assert not differences({"moe": "stratified", "strata": "2,2"}, model())


def test_a_refusal_gives_the_overrides_that_fit() -> None:
    found = differences(model(encoder_layers=2, strata="2,2"), model(encoder_layers=6, strata="4"))
    said = refusal("run/checkpoint_last.pt", found, {})
    assert "model.encoder_layers is 2 there and 6 here" in said
    assert "give model.encoder_layers=2 model.strata=[2,2], or" in said


def test_a_refusal_names_weights_where_no_setting_differs() -> None:
    weights = misfits({"a": torch.ones(2, 3), "b": torch.ones(1)}, {"a": torch.ones(3, 2), "c": torch.ones(())})
    said = refusal("x.pt", {}, weights)
    assert "a is 2x3 there and 3x2 here, b is 1 there and missing here, c is missing there and a number here" in said


def test_weights_that_are_equal_fit() -> None:
    assert misfits({"a": torch.ones(2)}, {"a": torch.zeros(2)}) == {}


def test_a_warning_says_both_values_and_how_to_keep_the_first() -> None:
    said = warning("x.pt", differences(model(encoder_attention_heads=2), model(encoder_attention_heads=4)))
    assert "model.encoder_attention_heads was 2 and is 4" in said and said.endswith("model.encoder_attention_heads=2")


@pytest.mark.slow
@pytest.mark.parametrize("heads", [False, True])
def test_fine_tuning_with_other_heads_is_said(
    run: Train, trained_run: TrainedRun, heads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parent = trained_run.folder / "checkpoint_last.pt"
    trained = torch.load(parent, weights_only=True)["cfg"]["model"]["encoder_attention_heads"]
    given = trained * 2 if heads else trained
    options = f"--strata 2,2 --finetune-from-model {parent} --lr 0.001 --max-update 1 --disable-validation"
    run(trained_run.data, f"{options} --encoder-attention-heads {given}")
    said = f"model.encoder_attention_heads was {trained} and is {given}"
    assert (said in caplog.text) == heads
    assert ("its weights fit" in caplog.text) == heads
