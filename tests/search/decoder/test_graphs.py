"""Captured steps: a stand-in on the CPU, which replays a step by computing it again, and CUDA graphs where there is a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from smoe_mt.moe import SYSTEMS as ALL_SYSTEMS
from smoe_mt.moe import RankK, Weighting, routing_override
from smoe_mt.moe.experts.ffn import FFNBank
from smoe_mt.moe.kernels import all_experts, select
from smoe_mt.search.beam import STEPS_UNASKED, BeamDecoder, Decoding
from smoe_mt.search.decoder import graphs
from smoe_mt.search.decoder.caches import Contents
from smoe_mt.search.decoder.graphs import CapturedSearch, CapturedSteps
from smoe_mt.search.steps import Contrast, PreparedModel, SingleModel, scorer_of
from tests.search.decoder.test_prepared import (
    DECODING,
    MakeModel,
    assert_same,
    lively,
    search,
    settings_of,
    some_sources,
)

SYSTEMS = ["none", "vanilla", "stratified"]


class Again:
    """A stand-in for CUDA graphs: computes again. device: where reading back is watched for; by default where nothing lies."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        outputs = run()

        def replay() -> None:
            for output, new in zip(outputs, run()):
                output.copy_(new)

        return outputs, replay


class SharedMemory(Again):
    """Each replay writes over what all others returned, as graphs of one pool of memory may."""

    def __init__(self) -> None:
        super().__init__()
        self._returned: list[Tensor] = []

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        outputs, replay = super().capture(run)
        self._returned += outputs

        def replay_over_others() -> None:
            for output in self._returned:
                output.fill_(torch.nan)
            replay()

        return outputs, replay_over_others


class Refuses(Again):
    """No graphs."""

    def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        raise RuntimeError("out of memory. And a page more\nof that")


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that searches of the tests move from one to another."""
    monkeypatch.setattr(graphs, "LEAST", 4)


def captured_scorer(model: Any, recorder: Any = None) -> PreparedModel:
    scorer = scorer_of(model)
    assert isinstance(scorer, PreparedModel)
    scorer.decoder.captured = CapturedSteps(scorer.decoder.step, recorder or Again())
    return scorer


def kept(scorer: PreparedModel) -> list[graphs.Bucket]:
    assert scorer.decoder.captured is not None
    return [step.bucket for step in scorer.decoder.captured._kept]


@pytest.mark.parametrize("system", SYSTEMS)
def test_finds_what_fairseqs_decoder_finds(make_model: MakeModel, task: Any, system: str) -> None:
    model = lively(make_model(**settings_of(system)))
    scorer, sources = captured_scorer(model), some_sources(20)
    wanted = search(SingleModel(model), task, sources=sources)
    for _ in range(2):  # captured, and used again
        assert_same(search(scorer, task, sources=sources), wanted)
    assert len({bucket.room for bucket in kept(scorer)}) > 1, "never moved to a larger bucket"
    assert len({bucket.sentences for bucket in kept(scorer)}) > 1, "never moved to a smaller batch"
    assert len(kept(scorer)) <= graphs.MOST_BUCKETS


@pytest.mark.parametrize("own_encoder", [True, False])
def test_both_passes_of_a_contrast_are_captured(make_model: MakeModel, task: Any, own_encoder: bool) -> None:
    """Each under its own routing, in steps that share memory: the second pass writes where the first one's logits lay."""
    model = lively(make_model(**settings_of("vanilla")))

    def weak() -> Any:
        return routing_override(model, selection=RankK(2), weighting=Weighting.UNIFORM)

    scorer = captured_scorer(model, SharedMemory())
    ours, theirs = (Contrast(one, weak, 0.5, 0.01, own_encoder) for one in (scorer, SingleModel(model)))
    for _ in range(2):  # captured, and used again
        assert_same(search(ours, task), search(theirs, task))
    assert scorer.decoder.captured is not None
    assert {bool(step.routing) for step in scorer.decoder.captured._kept} == {False, True}


def test_a_routing_that_changes_between_steps_is_followed(make_model: MakeModel) -> None:
    model = lively(make_model(**settings_of("vanilla")))
    captured, single = captured_scorer(model), SingleModel(model)
    source, tokens = some_sources(1)[0][None], torch.full((1, 2, 4), 5)
    with torch.inference_mode(), captured.searching(2), single.searching(2):
        states = [one.start(source, torch.tensor([source.size(1)]), 2) for one in (captured, single)]
        for step, rank in enumerate((1, 2, 2, 1), start=1):
            with routing_override(model, selection=RankK(rank), weighting=Weighting.UNIFORM):
                found, wanted = (
                    one.log_probs(tokens[:, :, :step], state)
                    for one, state in zip((captured, single), states, strict=True)
                )
            torch.testing.assert_close(found, wanted)


def test_what_cannot_be_captured_is_computed_and_said_once(
    make_model: MakeModel, task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = lively(make_model(**settings_of("stratified")))
    scorer = captured_scorer(model, Refuses())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(search(scorer, task), search(SingleModel(model), task))
    lines = [record.getMessage() for record in caplog.records if "captured" in record.getMessage()]
    assert lines == ["the steps of a search are not captured, so the host launches each kernel: out of memory"]


def test_a_routing_that_cannot_be_captured_leaves_the_others_theirs(make_model: MakeModel, task: Any) -> None:
    class RefusesOverrides(Again):
        def capture(self, run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
            if graphs.routing_in_force():
                raise RuntimeError("out of memory")
            return super().capture(run)

    model = lively(make_model(**settings_of("vanilla")))
    scorer = captured_scorer(model, RefusesOverrides())
    with routing_override(model, selection=RankK(2), weighting=Weighting.UNIFORM):
        search(scorer, task)
    assert not kept(scorer)
    search(scorer, task)
    assert kept(scorer)


def test_a_search_whose_next_bucket_is_taken_goes_on_without(make_model: MakeModel) -> None:
    scorer = captured_scorer(lively(make_model(moe="none")))
    steps = scorer.decoder.captured
    assert steps is not None
    with torch.inference_mode(), scorer.searching(2):
        source = some_sources(1)[0][None]
        first = scorer.start(source, torch.tensor([source.size(1)]), 2)
        second = scorer.again(first)
        assert isinstance(first, CapturedSearch) and isinstance(second, CapturedSearch)
        tokens = torch.full((1, 2, 2), 5)
        torch.testing.assert_close(scorer.log_probs(tokens, first).clone(), scorer.log_probs(tokens, second))
        assert first._step is not None and second._step is None


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_reads_nothing_back(make_model: MakeModel, task: Any, system: str) -> None:
    """With experts by a kernel that does not: a GPU has such ones (grouped, triton)."""
    scorer = captured_scorer(lively(make_model(**settings_of(system), moe_backend="grouped")), Again("cpu"))
    search(scorer, task, sources=some_sources(3))
    assert kept(scorer), "a step that reads something back is refused"


@pytest.mark.parametrize("system", ALL_SYSTEMS)
def test_steps_of_all_experts_are_captured(
    make_model: MakeModel, task: Any, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with the hypotheses of fairseq's decoder; experts of several sizes are computed by the loop."""
    computed: list[int] = []
    monkeypatch.setattr(all_experts, "DEVICES", ("cpu",))

    def noted(*given: Any) -> Tensor:
        computed.append(1)
        return all_experts.all_experts_ffn(*given)

    monkeypatch.setattr(select, "all_experts_ffn", noted)
    model, decoding = lively(make_model(**settings_of(system))), Decoding(beam=4, max_len_a=0.0, max_len_b=3)
    scorer, sources = captured_scorer(model, Again("cpu")), some_sources(2)
    assert_same(search(scorer, task, decoding, sources), search(SingleModel(model), task, decoding, sources))
    of_one_size = any(isinstance(module, FFNBank) for module in model.decoder.modules())
    assert bool(computed) == of_one_size and kept(scorer)


def test_a_step_that_reads_back_is_not_captured(
    make_model: MakeModel, task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = captured_scorer(lively(make_model(**settings_of("stratified"), moe_backend="loop")), Again("cpu"))
    with caplog.at_level(logging.WARNING):
        search(scorer, task, Decoding(beam=12, max_len_b=2), some_sources(5))
    (line,) = [record.getMessage() for record in caplog.records if "captured" in record.getMessage()]
    assert "a step reads back from the device" in line and not kept(scorer)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select"))
        return func(*args, **(kwargs or {}))


def test_a_search_asks_every_few_steps_alone(make_model: MakeModel, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: with the same result as where asking costs nothing."""
    model, prefixes = lively(make_model(moe="none")), [torch.tensor([7] * n) for n in (0, 1, 2)]
    sources = some_sources(3)
    wanted = search(scorer_of(model), task, sources=sources, prefixes=prefixes)
    monkeypatch.setattr(BeamDecoder, "_may_ask", False)
    scorer = captured_scorer(model)
    reads: list[int] = []
    advance = scorer.log_probs

    def counted(*args: Any) -> Any:
        reads.append(counter.count)
        return advance(*args)

    monkeypatch.setattr(scorer, "log_probs", counted)
    with Reads() as counter:
        found = search(scorer, task, sources=sources, prefixes=prefixes)
    assert_same(found, wanted)
    asked = [step for step, (one, other) in enumerate(pairwise(reads), start=1) if other > one]
    assert asked and all(step % STEPS_UNASKED == 0 for step in asked)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_graphs_on_a_gpu(make_model: MakeModel, task: Any, system: str, dtype: torch.dtype) -> None:
    model = lively(make_model(**settings_of(system), moe_backend="grouped")).to("cuda", dtype)
    scorer = scorer_of(model)
    assert isinstance(scorer, PreparedModel)
    captured = search(scorer, task)
    assert kept(scorer), "nothing was captured"
    scorer.decoder.captured = None
    eager = search(scorer, task)
    for ours, theirs in zip(captured, eager):
        assert ours[0][1] == pytest.approx(theirs[0][1], abs=1e-4 if dtype is torch.float32 else 0.1)
    if dtype is torch.float32:
        assert [tokens for each in captured for tokens, _ in each] == [tokens for each in eager for tokens, _ in each]


def test_contents_survive_a_move(make_model: MakeModel) -> None:
    """What a static cache takes over and gives back is the same, of the sentences asked for."""
    sources = graphs.Sources(torch.randn(2, 2, 3, 2, 5, 4), None)
    contents = Contents(sources, torch.randn(2, 2, 3, 2, 6, 4), torch.randn(3, 1, 2, 6), 2)
    caches = graphs.StaticCaches(graphs.Bucket.for_next(contents), contents)
    caches.load(contents)
    got = caches.contents(torch.tensor([2, 0]), contents.steps)
    torch.testing.assert_close(got.pairs, contents.pairs[:, :, [2, 0]])
    torch.testing.assert_close(got.mask, contents.mask[[2, 0]])
    assert DECODING.beam and got.steps == 3
