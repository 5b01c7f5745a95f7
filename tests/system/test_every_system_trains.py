"""Every ``--moe`` through fairseq's own command line: the loss falls, and the checkpoint translates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smoe_mt.generation import Translator
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.system import STRATA
from tests.conftest import TrainedRun, train

pytestmark = pytest.mark.slow

#: What is tried besides the defaults; a name after a dash is another trial of the same system.
MORE = {
    "eom": ["--moe-debug"],
    "stratified": ["--eom-p", "0.1", "--moe-backend", "grouped"],
    "stratified-release": ["--variant", "release", "--second-choice", "gumbel"],
    "stratified-by block": ["--strata", "2,2;3"],
    "stratified-balanced": [
        "--balance-bias",
        "0.01",
        "--balance-within",
        "stratum",
        "--z-weight",
        "0.001",
        "--shared-experts",
        "1",
    ],
    "vanilla-by block": ["--num-experts", "4,3", "--top-k", "3"],
    "xmoe": ["--xmoe-threshold", "0.6"],
    "mpoe": ["--mpoe-central-mask", "0.3"],
    "hmoe": ["--hmoe-sizes", "1,2,2,4", "--balance-weight", "0"],
    "stratified_hmoe": ["--hmoe-routing", "top_k", "--balance-weight", "0"],
    "dynmoe": ["--dynmoe-start", "2", "--dynmoe-adapt-every", "10", "--dynmoe-adapt-window", "5"],
}


def options_of(trial: str) -> list[str]:
    system = trial.split("-")[0]
    experts = ["--strata", "2,2"] if SYSTEMS[system].experts_setting == STRATA else ["--num-experts", "4"]
    return ["--moe", system, *experts, *MORE.get(trial, [])]


def validation_losses(log: Path) -> list[float]:
    """Base 2, in the order of the validations."""
    return [float(loss) for loss in re.findall(r"valid on .*? loss ([\d.]+)", log.read_text())]


@pytest.mark.parametrize("trial", dict.fromkeys([*SYSTEMS, *MORE]))
def test_trains_and_translates(trial: str, trained_run: TrainedRun, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = [*options_of(trial), "--log-file", str(log)]
    train(trained_run.data, tmp_path / "run", *options, "--validate-interval-updates", "5", updates=25)
    losses = validation_losses(log)
    assert losses[-1] < losses[0] - 0.3
    translator = Translator.from_pretrained(tmp_path / "run", device="cpu")
    source, target = translator.directions[0].split("-")
    assert len(translator.translate(["a b c", ""], source=source, target=target)) == 2


def test_bfloat16_converges_as_float32_does(trained_run: TrainedRun, tmp_path: Path) -> None:
    last = {}
    for mode in ("off", "on"):
        options = ["--moe", "stratified", "--strata", "2,2", "--cpu-bf16", mode, "--log-file", str(tmp_path / mode)]
        train(trained_run.data, tmp_path / f"run-{mode}", *options, updates=60)
        last[mode] = validation_losses(tmp_path / mode)[-1]
    assert last["on"] == pytest.approx(last["off"], rel=0.1)
