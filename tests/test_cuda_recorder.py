"""Steps as CUDA graphs on a GPU: the gradients are those without graphs, dropout included, and the host waits for nothing."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.tasks import FairseqTask
from torch import Tensor

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.cuda_recorder import CudaRecorder
from smoe_mt.models import SMoETransformerModel
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.training.step_graphs import StepGraphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or interpreted(), reason="there is no GPU"),
]

SIZES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("embed_dim", 64), ("ffn_embed_dim", 128))
}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"moe": "none"},
    "vanilla": {"moe": "vanilla", "num_experts": 4},
    "smoe": {"moe": "stratified", "strata": "2,2"},
}
SHAPES = ((8, 12, 10), (4, 20, 24), (16, 6, 7))


class Backward:
    """What fairseq's optimiser is to a step."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def sample_of(shape: tuple[int, int, int], seed: int, real: int) -> dict[str, Any]:
    """Random tokens, of which `real` rows are sentences; the others are padding."""
    rows, S, T = shape
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(4, 24, (rows, length), generator=draw) for length in (S, T))
    source[1, S // 2 :], target[1, T // 2 :] = 1, 1
    source[real:], target[real:] = 1, 1
    previous = target.roll(1, dims=1)
    previous[:real, 0] = 2
    lengths, direction = source.ne(1).sum(dim=1), torch.arange(rows) % 2
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous}
    on_device = {name: tensor.cuda() for name, tensor in net_input.items()}
    counts = {"ntokens": int(target.ne(1).sum()), "nsentences": real}
    return {"net_input": on_device, "target": target.cuda(), "direction": direction.cuda(), **counts}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, make_model: Callable[..., SMoETransformerModel]) -> Any:
    return make_model(**SIZES, **KINDS[request.param], dropout=0.1).cuda().train()


@pytest.fixture
def criterion(task: SimpleNamespace) -> StratifiedRoutingCriterion:
    return StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1).train()


@pytest.fixture
def losses() -> list[Tensor]:
    return []


@pytest.fixture
def graphs(losses: list[Tensor]) -> Iterator[StepGraphs]:
    made = StepGraphs(CudaRecorder(), losses.append)
    yield made
    made.forget()
    gc.collect()


def step(graphs: StepGraphs | None, sample: Any, model: Any, criterion: Any) -> tuple[Any, Any, dict[str, Any]]:
    """A micro-batch as the task computes it, with its gradients added to the model's."""
    eager: Any = partial(FairseqTask.train_step, None, sample, model, criterion, Backward(), 1)
    return graphs(eager, sample, model, criterion, Backward(), 1) if graphs else eager()  # type: ignore[no-any-return]


def updates(seed: int) -> list[list[dict[str, Any]]]:
    """Of two micro-batches each, so that each shape comes several times, in several orders."""
    order = [0, 1, 0, 1, 2, 0, 2, 2, 1, 0]
    samples = [sample_of(SHAPES[shape], seed + number, SHAPES[shape][0] - 1) for number, shape in enumerate(order)]
    return [samples[first : first + 2] for first in range(0, len(samples), 2)]


def test_gradients_and_logs_are_those_without_graphs(
    model: Any, criterion: StratifiedRoutingCriterion, graphs: StepGraphs, losses: list[Tensor]
) -> None:
    """Of several updates from the same weights, with the same seeds: each of two micro-batches, with dropout."""
    other = copy.deepcopy(model)
    for number, samples in enumerate(updates(0)):
        found, expected = [], []
        for each, how, outcome in ((model, graphs, found), (other, None, expected)):
            each.zero_grad(set_to_none=True)
            torch.manual_seed(number)
            outcome += [step(how, sample, each, criterion) for sample in samples]
        for (loss, size, log), (wanted, tokens, sums) in zip(found, expected, strict=True):
            assert size == tokens and list(log) == list(sums)
            torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-5)
            for key in log:
                torch.testing.assert_close(log[key], sums[key], rtol=1e-4, atol=1e-4)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                if theirs.grad is not None:
                    mine -= 1e-3 * theirs.grad
                    theirs -= 1e-3 * theirs.grad
    assert len(graphs._graphs) == len(SHAPES) and len(losses) == 7


def test_the_host_waits_for_nothing(model: Any, criterion: StratifiedRoutingCriterion, graphs: StepGraphs) -> None:
    samples = [sample_of(SHAPES[0], seed, 7) for seed in range(4)]
    for sample in samples[:3]:
        step(graphs, sample, model, criterion)
    assert len(graphs._graphs) == 1
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(graphs, samples[3], model, criterion)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_replays_of_the_same_batch_are_alike(
    model: Any, criterion: StratifiedRoutingCriterion, graphs: StepGraphs
) -> None:
    """From the same state of the generator, whatever was replayed in between."""
    first, between = sample_of(SHAPES[0], 0, 7), sample_of(SHAPES[1], 1, 3)
    for _ in range(2):
        for sample in (first, between):
            step(graphs, sample, model, criterion)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(5)
        outcomes.append(step(graphs, first, model, criterion))
        step(graphs, between, model, criterion)
    (loss, _, log), (again, _, other) = outcomes
    assert torch.equal(loss, again)
    for key, value in log.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)


def test_what_cannot_be_captured_is_told_and_computed_without(
    model: Any, criterion: StratifiedRoutingCriterion, graphs: StepGraphs, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy from the host's memory: nothing is read back, and no graph takes it."""
    forward = criterion.forward

    def copying(model: Any, sample: Any) -> Any:
        loss, size, log = forward(model, sample)
        return loss * torch.tensor([2.0]).to(loss.device).sum(), size, log

    criterion.forward = copying  # type: ignore[method-assign]
    samples = [sample_of(SHAPES[0], seed, 7) for seed in range(4)]
    results = [step(graphs, sample, model, criterion) for sample in samples]
    assert all(loss.isfinite() for loss, _, _ in results) and not graphs._graphs
    (line,) = [message for message in caplog.messages if "task.cuda_graphs" in message]
    assert "a step cannot be captured" in line
