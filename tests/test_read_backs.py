"""What a training's step reads back from the device: nothing, but where experts are computed one by one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.padding import never_ask
from smoe_mt.read_backs import HARMLESS, ReadBacks
from smoe_mt.training.trainer import SMoETrainer
from tests.training.forked import config, fork, start

UPDATES = (
    "--disable-validation --no-save --max-update 3 --update-freq 2 --clip-norm 0.5 --log-interval 100 --batch-shapes 2"
)
MakeModel = Callable[..., SMoETransformerModel]
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1, "moe_freq": 1}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"moe": "none"},
    "vanilla": {"moe": "vanilla", "num_experts": 4, "moe_backend": "grouped"},
    "smoe": {"moe": "stratified", "strata": "2,2", "moe_backend": "grouped", "balance_bias": 0.01},
    "smoe, own kernels": {"moe": "stratified", "strata": "2,2", "moe_backend": "triton", **ONE_LAYER},
}


def sample() -> dict[str, Any]:
    """Two sentences and a row of padding; counts as a captured step has them."""
    net_input = {
        "src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1], [1, 1, 1, 1, 1]]),
        "src_lengths": torch.tensor([5, 3, 0]),
        "prev_output_tokens": torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1], [1, 1, 1, 1]]),
    }
    target = torch.tensor([[11, 12, 13, 2], [14, 2, 1, 1], [1, 1, 1, 1]])
    counts = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("ntokens", 6), ("nsentences", 2))}
    return {"net_input": net_input, "target": target, "direction": torch.tensor([1, 0, 0]), **counts}


def step(model: SMoETransformerModel, task: SimpleNamespace) -> list[str]:
    """Forward, criterion and backward; what it read."""
    criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1, balance_weight=0.1).train()
    with never_ask(), ReadBacks("cpu") as read:
        loss, _, _ = criterion(model.train(), sample())
        loss.backward()
    return read.found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_nothing_back(make_model: MakeModel, task: SimpleNamespace, kind: str) -> None:
    assert step(make_model(**KINDS[kind], dropout=0.1), task) == []


def test_what_reads_back_is_named(make_model: MakeModel, task: SimpleNamespace) -> None:
    found = step(make_model(moe="vanilla", num_experts=4, moe_backend="loop"), task)
    assert found and all(place.startswith("aten.") and " in smoe_mt/moe/" in place for place in found), found


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "index"),
        (lambda x: bool(x.any()), "_local_scalar_dense"),
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
    ],
)
def test_operations_that_the_host_waits_for(read: Callable[[Tensor], Any], name: str) -> None:
    with ReadBacks("cpu") as found:
        read(torch.tensor([1.0, 2.0]))
    assert [place.split(" in ")[0] for place in found.found] == [f"aten.{name}"]


def test_what_lies_elsewhere_is_nobodys_matter() -> None:
    with ReadBacks("cuda") as found:
        torch.tensor([1.0]).item()
        torch.tensor([1.0]).to(torch.float64)
    assert found.found == []


class HostReads(TorchFunctionMode):
    """Notes calls that hand a tensor's values to the host, whatever the device."""

    NAMES = ("__bool__", "__float__", "__index__", "__int__", "cpu", "equal", "item", "nonzero", "numpy", "tolist")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in self.NAMES:
            frame = sys._getframe(1)
            self.found.append(f"{func.__name__} in {Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_reads_of_an_update(toy_text: Path, tmp_path: Path, ranks: int) -> None:
    """Of the device one, of the norm together with what the ranks agree on. On several ranks fairseq asks besides whether there
    were any tokens. The norm is on the host when it is asked whether it is finite, and when it is logged.

    (On several GPUs fairseq also compares the ranks' norms: two more.)
    """
    cfg = config(toy_text, tmp_path / "run", "stratified", f"{UPDATES} --moe-backend grouped")
    notes = [tmp_path / f"{rank}.json" for rank in range(ranks)]
    step = SMoETrainer.train_step

    def run(rank: int) -> None:
        def train_step(self: SMoETrainer, samples: Any, *args: Any) -> Any:
            with HostReads() as read:
                output = step(self, samples, *args)
            notes[rank].write_text(json.dumps(read.found))
            return output

        SMoETrainer.train_step = train_step  # in a process of its own
        with never_ask():
            start(cfg)

    fork(ranks, run, tmp_path / "logs").succeed()
    of_the_device = ["__bool__"] * (ranks - 1) + ["tolist"]
    for note in notes:
        reads = [read for read in json.loads(note.read_text()) if HARMLESS not in read]
        assert [read.split(" in ")[0] for read in reads] == [*of_the_device, "__bool__", "__float__"], reads
