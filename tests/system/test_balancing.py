"""Balancing in real trainings: an interrupted run, updates that are left out, sharded checkpoints, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt import cli
from smoe_mt.generation import Translator
from smoe_mt.models import SMoETransformerModel
from smoe_mt.moe import Gate
from smoe_mt.training.nonfinite import NonFiniteUpdates
from tests.toy import make_toy_folder
from tests.training.forked import config, start

pytestmark = pytest.mark.slow

OPTIONS = "--balance-bias 0.05 --z-weight 0.1 --shared-experts 1 --disable-validation --update-freq 2 --save-interval-updates 2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("balancing") / "data", sizes={"train": 60, "valid": 9, "test": 9})


def trained(data: Path, folder: Path, updates: int, more: str = "") -> dict[str, Tensor]:
    start(config(data, folder, "stratified", f"{OPTIONS} --max-update {updates} {more}"))
    state: dict[str, Any] = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    weights: dict[str, Tensor] = state["model"]
    return weights


def biases(weights: dict[str, Tensor]) -> list[Tensor]:
    return [bias for name, bias in weights.items() if name.endswith("selection_bias")]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four updates without an interruption."""
    folder = tmp_path_factory.mktemp("run")
    trained(data, folder, 4)
    return folder


def test_a_run_that_is_interrupted_has_the_biases_of_one_that_is_not(data: Path, run: Path, tmp_path: Path) -> None:
    trained(data, tmp_path, 2)
    went_on = trained(data, tmp_path, 4)
    whole = torch.load(run / "checkpoint_last.pt", weights_only=True)["model"]
    assert whole.keys() == went_on.keys() and all(went_on[name].equal(whole[name]) for name in whole)
    assert len(biases(whole)) == 4 and all(bias.dtype is torch.float32 for bias in biases(whole))
    assert max(float(bias.abs().max()) for bias in biases(whole)) > 0.05  # no two updates cancel


def test_sharded_checkpoints_have_them(data: Path, run: Path, tmp_path: Path) -> None:
    trained(data, tmp_path, 2, "--sharded-checkpoints")
    start(config(data, tmp_path, "stratified", f"{OPTIONS} --sharded-checkpoints --max-update 4"))
    assert cli.main(["checkpoint", "convert", str(tmp_path), str(tmp_path / "whole.pt")]) == 0
    found = torch.load(tmp_path / "whole.pt", weights_only=True)["model"]
    whole = torch.load(run / "checkpoint_last.pt", weights_only=True)["model"]
    assert all(found[name].equal(whole[name]) for name in whole)


def test_an_update_that_is_left_out_moves_no_bias(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three: its batches are counted by nobody."""
    seen: list[Tensor] = []
    moved, begin, observe = Gate.after_update, NonFiniteUpdates.begin, Gate.observe
    passes = {"now": 0, "update": 0}

    def next_update(self: NonFiniteUpdates) -> None:
        passes["update"] += 1
        passes["now"] = 0
        begin(self)

    def count(self: Gate, *args: Any) -> None:
        passes["now"] += 1
        observe(self, *args)

    def after_update(self: Gate) -> None:
        seen.append(self.load.clone())
        moved(self)

    monkeypatch.setattr(NonFiniteUpdates, "begin", next_update)
    monkeypatch.setattr(NonFiniteUpdates, "bad_loss", lambda self: passes["update"] == 2)
    monkeypatch.setattr(Gate, "observe", count)
    monkeypatch.setattr(Gate, "after_update", after_update)
    trained(data, tmp_path, 2)
    assert passes["update"] == 3
    assert len(seen) == 2 * 4  # two updates, four gates
    tokens = [int(load.sum()) for load in seen[0::4]]  # of the encoder's first gate, which all tokens pass
    assert max(tokens) < 2.5 * min(tokens)  # had the left-out batches been counted, the last would be twice the first


def test_it_is_averaged_inspected_exported_and_translated_with(run: Path, tmp_path: Path, capsys: Any) -> None:
    first, last = (str(run / f"checkpoint_{name}.pt") for name in ("1_2", "last"))
    mean = tmp_path / "mean.pt"
    assert cli.main(["checkpoint", "average", first, last, "--out", str(mean)]) == 0
    states = [torch.load(path, weights_only=True)["model"] for path in (first, last, mean)]
    for one, other, both in zip(*map(biases, states), strict=True):
        torch.testing.assert_close(both, (one + other) / 2)
    capsys.readouterr()
    assert cli.main(["checkpoint", "inspect", last]) == 0
    model = Translator.from_pretrained(run, device="cpu").loaded.model
    assert isinstance(model, SMoETransformerModel)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in capsys.readouterr().out
    assert cli.main(["export", str(run), str(tmp_path / "half"), "--dtype", "bf16"]) == 0
    half = Translator.from_pretrained(tmp_path / "half", device="cpu").loaded.model.state_dict()
    assert all(bias.dtype is torch.float32 for bias in biases(half))
    assert all(one.equal(other) for one, other in zip(biases(half), biases(states[1]), strict=True))
    assert cli.main(["export", str(run), str(tmp_path / "exported")]) == 0
    translations = [
        Translator.from_pretrained(path, device="cpu").translate(["ba ba"], source="aa", target="en")
        for path in (run, tmp_path / "exported")
    ]
    assert translations[0] == translations[1]
