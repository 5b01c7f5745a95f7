"""Half precision, with and without a scaled loss, for every ``--moe``; what only a GPU has is refused elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from smoe_mt.errors import UserError
from smoe_mt.training.trainer import SMoETrainer
from tests.toy import make_toy_folder
from tests.training.forked import KINDS, config, fork, start

pytestmark = pytest.mark.slow

TOO_HIGH = 2**22  # gradients of float16 end at 65,504
UPDATES = 4

Notes = dict[str, Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("precision") / "data", sizes={"train": 46, "valid": 9, "test": 9})


def write_down(patch: pytest.MonkeyPatch) -> Notes:
    """After each update: its `losses`, the `scale` of the loss, and updates `made`; at last the `weights`."""
    notes: Notes = {"losses": [], "scale": [], "made": []}
    step = SMoETrainer.train_step

    def train_step(self: SMoETrainer, samples: Any) -> Any:
        output = step(self, samples)
        logged = metrics.get_smoothed_values("train")
        notes["losses"].append(None if output is None else metrics.get_meter("train", "loss").val)
        notes["scale"].append(getattr(getattr(self.optimizer, "scaler", None), "loss_scale", None))
        notes["made"].append(self.get_num_updates())
        notes["weights"] = [weight.detach().clone() for weight in self.get_model().parameters()]
        notes["logged"] = {key: float(value) for key, value in logged.items()}
        return output

    patch.setattr(SMoETrainer, "train_step", train_step)
    return notes


MODES = {
    "float32": "",
    "fp16": f"--fp16 --fp16-init-scale {TOO_HIGH}",
    "memory efficient fp16": f"--memory-efficient-fp16 --fp16-init-scale {TOO_HIGH}",
    "cpu_bf16": "--cpu-bf16 on",
}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Notes]]:
    """(kind, mode) -> what two ranks wrote down."""
    folder = tmp_path_factory.mktemp("runs")
    common = f"--max-update {UPDATES} --disable-validation --no-save"
    configs = {(kind, mode): config(data, folder, kind, f"{common} {MODES[mode]}") for kind in KINDS for mode in MODES}

    def run(rank: int) -> None:
        for (kind, mode), cfg in configs.items():
            with pytest.MonkeyPatch.context() as patch:
                notes = write_down(patch)
                start(cfg)
                torch.save(notes, folder / f"{kind}-{mode}-{rank}.pt")

    fork(2, run, folder / "logs").succeed(240)
    return {
        (kind, mode): [torch.load(folder / f"{kind}-{mode}-{rank}.pt", weights_only=True) for rank in range(2)]
        for kind, mode in configs
    }


@pytest.mark.parametrize("mode", ["fp16", "memory efficient fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_overflows_is_left_out_and_lowers_the_scale(
    kind: str, mode: str, trained: dict[tuple[str, str], list[Notes]]
) -> None:
    """By all ranks together; then the training goes as in float32."""
    notes, others = trained[kind, mode]
    left_out = notes["losses"].count(None)
    assert 0 < left_out < 16 and notes["losses"][:left_out] == [None] * left_out
    assert notes["scale"][:left_out] == [TOO_HIGH / 2**n for n in range(1, left_out + 1)]
    assert notes["made"] == [0] * left_out + list(range(1, UPDATES + 1))
    assert notes["logged"]["loss_scale"] == notes["scale"][-1]
    for name in ("losses", "scale", "made"):
        assert notes[name] == others[name]
    assert all(torch.equal(one, other) for one, other in zip(notes["weights"], others["weights"], strict=True))
    assert all(weight.dtype is torch.float16 and weight.isfinite().all() for weight in notes["weights"])
    good = notes["losses"][left_out:]
    assert good[-1] < good[0]
    assert good[0] == pytest.approx(trained[kind, "float32"][0]["losses"][0], rel=0.1)  # of other batches


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_without_a_scale(kind: str, trained: dict[tuple[str, str], list[Notes]]) -> None:
    notes, others = trained[kind, "cpu_bf16"]
    assert notes["losses"] == others["losses"]
    assert notes["losses"] == pytest.approx(trained[kind, "float32"][0]["losses"], rel=0.02)
    assert notes["losses"] != trained[kind, "float32"][0]["losses"]
    assert all(weight.dtype is torch.float32 for weight in notes["weights"])


def test_a_scale_that_cannot_be_lower_ends_the_run(data: Path, tmp_path: Path) -> None:
    """The gradient is infinite at any scale."""
    options = "--fp16 --fp16-init-scale 4 --min-loss-scale 1 --lr 1000 --max-update 9 --disable-validation"
    cfg = config(data, tmp_path, options=options)
    ranks = fork(2, lambda _: start(cfg), tmp_path / "logs")
    assert ranks.wait() == [1, 1]
    said = r"the gradient still overflows after update \d, with the lowest scale of the loss; the last of the batches is in"
    assert all(re.search(said, ranks.log(rank)) and "Traceback" not in ranks.log(rank) for rank in range(2)), ranks.log(
        0
    )
    assert (tmp_path / "nonfinite_batch.pt").exists() and not (tmp_path / "crash.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has them")
@pytest.mark.parametrize("flag", ["--bf16", "--amp"])
def test_what_a_cpu_has_not(flag: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"common\.{flag[2:]} is for GPUs.*model\.cpu_bf16=on"):
        start(config(data, tmp_path, options=f"{flag} --max-update 1"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("flag", ["--bf16", "--amp", "--fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str, flag: str, data: Path, tmp_path: Path) -> None:
    cfg = config(data, tmp_path, kind, f"{flag} --max-update {UPDATES} --disable-validation --no-save")
    cfg.common.cpu = False
    with pytest.MonkeyPatch.context() as patch:
        notes = write_down(patch)
        start(cfg)
    losses = [loss for loss in notes["losses"] if loss is not None]
    assert len(losses) == UPDATES and losses[-1] < losses[0]
    assert all(weight.isfinite().all() for weight in notes["weights"])
