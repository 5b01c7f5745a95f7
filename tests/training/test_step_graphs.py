"""Graphs of a training's steps, with a recorder that runs them again: what a GPU does with them is in test_cuda_recorder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.tasks import FairseqTask

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.criterions.host_sums import host_sums
from smoe_mt.errors import UserError
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.padding import never_ask
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from smoe_mt.training import step_graphs as module
from smoe_mt.training.step_graphs import StepGraphs, step_graphs
from smoe_mt.training.trainer import SMoETrainer
from tests.training.forked import config, fork, start
from tests.training.rerun import Rerun

SHAPES = "--batch-shapes 3 --cuda-graphs on"
TRAINING = "--disable-validation --dropout 0.1 --clip-norm 0.5 --update-freq 2 --optimizer fused_adam"
KINDS = {
    "dense, float16": ("none", "--fp16 --fp16-init-scale 8 --optimizer adam"),
    "vanilla": ("vanilla", "--moe-backend grouped --sentence-avg"),
    "smoe": ("stratified", "--moe-backend grouped --balance-bias 0.05"),
}

Outcome = tuple[dict[str, Any], list[dict[str, Any]], Rerun | None]
Train = Callable[..., Outcome]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, toy_text: Path, tmp_path: Path) -> Iterator[Train]:
    """Trains in this process: (last checkpoint, sums that each update logged, what captured its steps)."""
    recorders: list[Rerun] = []
    logged: list[dict[str, Any]] = []
    log = SMoETrainer._reduce_and_log_stats

    def recorder_for(trainer: SMoETrainer) -> Rerun:
        recorders.append(Rerun(trainer.get_model()))
        return recorders[-1]

    def reduce_and_log(self: SMoETrainer, outputs: Any, *args: Any) -> Any:
        logged.append({key: list(output) for key, output in (("keys", outputs[0]),)} | host_sums(outputs))
        return log(self, outputs, *args)

    monkeypatch.setattr(module, "recorder_for", recorder_for)
    monkeypatch.setattr(SMoETrainer, "_reduce_and_log_stats", reduce_and_log)

    def run(name: str, kind: str, updates: int = 6, options: str = SHAPES) -> Outcome:
        logged.clear()
        moe, own = KINDS[kind]
        start(config(toy_text, tmp_path / name, moe, f"{TRAINING} {own} {options} --max-update {updates}"))
        checkpoint = torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)
        return checkpoint, list(logged), recorders[-1] if recorders else None

    with never_ask():
        yield run


def weights_and_state(checkpoint: dict[str, Any]) -> list[torch.Tensor]:
    states = checkpoint["last_optimizer_state"]["state"].values()
    return [*checkpoint["model"].values(), *(state[key] for state in states for key in ("exp_avg", "exp_avg_sq"))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_that_without_graphs(train: Train, kind: str) -> None:
    """Bit for bit, with what is logged; of two runs of the same batches."""
    graphs, logged, recorder = train("graphs", kind)
    eager, expected, _ = train("eager", kind, options="--batch-shapes 3")
    assert recorder is not None and recorder.recordings == 3 and recorder.replays >= 5
    assert logged == expected
    for mine, theirs in zip(weights_and_state(graphs), weights_and_state(eager), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("max_tokens", "stand_ins"), [(400, [False, False, False, False, True]), (550, [False, False, True, False])]
)
def test_ranks_add_up_gradients_of_graphs(
    toy_text: Path, tmp_path: Path, max_tokens: int, stand_ins: list[bool]
) -> None:
    """Bit for bit as without graphs, over an epoch, in whose last update the second rank has no batch, or one too few.

    stand_ins  which of its batches stand in for one that it has not
    """
    options = f"{TRAINING} {KINDS['smoe'][1]} --batch-shapes 1 --max-tokens {max_tokens} --max-epoch 1 --max-update 0"
    configs = {
        name: config(toy_text, tmp_path / name, "stratified", f"{options} --cuda-graphs {graphs}")
        for name, graphs in (("graphs", "on"), ("eager", "off"))
    }

    def run(rank: int) -> None:
        recorders: list[Rerun] = []
        stood_in: list[bool] = []
        train_step = ManyToManyTranslationTask.train_step

        def recorder_for(trainer: SMoETrainer) -> Rerun:
            recorders.append(Rerun(trainer.get_model()))
            return recorders[-1]

        def noted(self: Any, *args: Any, ignore_grad: bool = False, **kwargs: Any) -> Any:
            stood_in.append(ignore_grad)
            return train_step(self, *args, ignore_grad=ignore_grad, **kwargs)

        with pytest.MonkeyPatch.context() as patch, never_ask():
            patch.setattr(module, "recorder_for", recorder_for)
            patch.setattr(ManyToManyTranslationTask, "train_step", noted)
            for cfg in configs.values():
                start(cfg)
        assert recorders[0].replays > 0
        assert stood_in == 2 * (stand_ins if rank else [False] * len(stand_ins))

    fork(2, run, tmp_path / "logs").succeed()
    mine, theirs = (
        weights_and_state(torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)) for name in configs
    )
    assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


@pytest.mark.slow
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(train: Train) -> None:
    """In the middle of an epoch; its shapes are captured anew."""
    whole, _, _ = train("whole", "smoe")
    train("parts", "smoe", updates=3)
    resumed, _, recorder = train("parts", "smoe")
    assert resumed["extra_state"]["train_iterator"]["iterations_in_epoch"] == 12
    assert recorder is not None and recorder.replays > 0
    for mine, theirs in zip(weights_and_state(resumed), weights_and_state(whole), strict=True):
        assert torch.equal(mine, theirs)


# --- the logic around a recorder ---

ONE, TWO = (3, 5, 4), (2, 6, 7)


class Backward:
    """What fairseq's optimiser is to a step."""

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def sample_of(shape: tuple[int, int, int], seed: int) -> dict[str, Any]:
    rows, S, T = shape
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(4, 24, (rows, length), generator=draw) for length in (S, T))
    source[1, 3:], target[1, 2:] = 1, 1
    lengths = source.ne(1).sum(dim=1)
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": target.roll(1, dims=1)}
    counts = {"ntokens": int(target.ne(1).sum()), "nsentences": rows}
    return {"net_input": net_input, "target": target, "direction": torch.arange(rows) % 2, **counts}


class Steps:
    """Micro-batches through a model with and without graphs, which are compared after each."""

    def __init__(self, model: Any, task: Any, fail: dict[int, Exception] | None = None) -> None:
        self.model, self.other = model.train(), copy.deepcopy(model).train()
        self.criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1).train()
        self.recorder = Rerun(model, fail)
        self.losses: list[torch.Tensor] = []
        self.graphs = StepGraphs(self.recorder, self.losses.append)

    def __call__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        sample, optimizer = sample_of(shape, seed), Backward()
        eager: list[Callable[[], Any]] = [
            partial(FairseqTask.train_step, None, sample, model, self.criterion, optimizer, 1)
            for model in (self.model, self.other)
        ]
        with never_ask():
            torch.manual_seed(seed)
            loss, size, log = self.graphs(eager[0], sample, self.model, self.criterion, optimizer, 1)
            torch.manual_seed(seed)
            expected, tokens, sums = eager[1]()
        assert torch.equal(loss, expected) and size == tokens and list(log) == list(sums)
        assert all(torch.equal(torch.as_tensor(log[key]), torch.as_tensor(sums[key])) for key in log)
        for mine, theirs in zip(self.model.parameters(), self.other.parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None)
            assert mine.grad is None or torch.equal(mine.grad, theirs.grad)

    def begin_update(self) -> None:
        for model in (self.model, self.other):
            model.zero_grad(set_to_none=True)


@pytest.fixture
def steps(make_model: Callable[..., Any], task: Any) -> Callable[..., Steps]:
    def make(fail: dict[int, Exception] | None = None, **settings: Any) -> Steps:
        return Steps(
            make_model(**{"moe": "stratified", "strata": "2,2", "moe_backend": "grouped", **settings}), task, fail
        )

    return make


def test_gradients_add_up_however_batches_are_computed(steps: Callable[..., Steps]) -> None:
    """Eager, captured and replayed ones of two shapes, within an update and in the next ones."""
    run = steps()
    for number, shapes in enumerate(([ONE, ONE, TWO], [ONE, TWO, ONE], [TWO], [TWO, ONE])):
        run.begin_update()
        for place, shape in enumerate(shapes):
            run(shape, 10 * number + place)
    assert (run.recorder.recordings, run.recorder.replays, len(run.losses)) == (2, 7, 7)


def test_gradients_of_a_step_without_a_graph_are_added_to(steps: Callable[..., Steps]) -> None:
    run = steps(fail={1: torch.cuda.OutOfMemoryError("CUDA out of memory")})
    for seed in range(2):
        run.begin_update()
        for shape in (TWO, ONE, TWO, ONE):
            run(shape, seed)


def test_a_step_that_reads_back_is_told_once(steps: Callable[..., Steps], caplog: pytest.LogCaptureFixture) -> None:
    run = steps(moe_backend="loop")
    for seed in range(4):
        run(ONE, seed)
    (line,) = caplog.messages
    assert "a step reads back from the device (aten." in line and "smoe_mt/moe/" in line
    assert run.recorder.recordings == 0


def test_a_step_that_cannot_be_captured_is_told_once(
    steps: Callable[..., Steps], caplog: pytest.LogCaptureFixture
) -> None:
    run = steps(fail={1: RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel")})
    for seed in range(3):
        run(ONE, seed)
        run(TWO, seed)
    (line,) = caplog.messages
    assert "a step cannot be captured (CUDA error: operation not permitted when stream is capturing)" in line
    assert (run.recorder.recordings, run.recorder.replays) == (2, 1)


def test_what_a_criterion_counts_on_the_host_cannot_be_captured(
    steps: Callable[..., Steps], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay would say again what it was in the captured batch."""
    forward = StratifiedRoutingCriterion.forward

    def counting(self: Any, model: Any, sample: Any) -> Any:
        loss, size, log = forward(self, model, sample)
        return loss, size, log | {"rows": len(sample["target"])}

    monkeypatch.setattr(StratifiedRoutingCriterion, "forward", counting)
    run = steps()
    for seed in range(3):
        run(ONE, seed)
    (line,) = caplog.messages
    assert "a step cannot be captured (the criterion returns numbers of the host (rows))" in line


def test_a_shape_larger_than_the_memory_goes_without_a_graph(
    steps: Callable[..., Steps], caplog: pytest.LogCaptureFixture
) -> None:
    run = steps(fail={0: torch.cuda.OutOfMemoryError("CUDA out of memory")})
    for seed in range(3):
        run(ONE, seed)
        run(TWO, seed)
    (line,) = caplog.messages
    assert "no memory for the shape 3x5x4" in line
    assert (run.recorder.recordings, run.recorder.replays) == (2, 2)


def test_graphs_make_room_where_the_memory_runs_out_beside_them(
    steps: Callable[..., Steps], caplog: pytest.LogCaptureFixture
) -> None:
    run = steps()
    for seed in range(2):
        run(ONE, seed)

    def too_much() -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        run.graphs(too_much, sample_of(TWO, 0), run.model, run.criterion, Backward(), 1)
    run.begin_update()
    run(ONE, 3)
    assert "the memory ran out beside them" in caplog.text
    assert (run.recorder.replays, run.recorder.forgotten) == (1, 1)


def trainer(
    device: str = "cuda",
    ranks: int = 1,
    backend: str = "legacy_ddp",
    amp: bool = False,
    expert_ranks: object = None,
    **task: Any,
) -> Any:
    """What `step_graphs` looks at."""
    cfg = SimpleNamespace(
        task=SimpleNamespace(**{"batch_shapes": 8, "cuda_graphs": "on", **task}),
        common=SimpleNamespace(amp=amp),
        distributed_training=SimpleNamespace(ddp_backend=backend),
    )
    return SimpleNamespace(
        cfg=cfg,
        device=torch.device(device),
        data_parallel_world_size=ranks,
        is_data_parallel_master=True,
        _expert_ranks=expert_ranks,
        get_criterion=lambda: object.__new__(StratifiedRoutingCriterion),
        get_model=lambda: object.__new__(SMoETransformerModel),
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"device": "cpu"}, "trainings on a CPU have none"),
        ({"batch_shapes": 0}, "task.batch_shapes=0"),
        ({"amp": True}, "common.amp"),
        ({"expert_ranks": 2, "ranks": 2}, "experts are spread over ranks"),
        ({"ranks": 2, "backend": "pytorch_ddp"}, "ddp_backend=pytorch_ddp reduces gradients during the backward pass"),
    ],
)
def test_what_rules_graphs_out(
    settings: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CudaRecorder", lambda: Rerun(torch.nn.Identity()))
    with pytest.raises(UserError, match=f"task.cuda_graphs=on: .*{why}"):
        step_graphs(trainer(**settings), print)
    with caplog.at_level(logging.INFO):
        assert step_graphs(trainer(**settings, cuda_graphs="auto"), print) is None
    assert [why in line for line in caplog.messages] == [True] * ("device" not in settings)
    assert step_graphs(trainer(**settings, cuda_graphs="off"), print) is None


@pytest.mark.parametrize("wanted", ["on", "auto"])
def test_nothing_rules_graphs_out(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CudaRecorder", lambda: Rerun(torch.nn.Identity()))
    assert step_graphs(trainer(cuda_graphs=wanted, ranks=4), print) is not None
