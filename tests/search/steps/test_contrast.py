"""Contrast of two routings of one model while it searches (SCMoE)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.generation import Decoding, Translator
from smoe_mt.moe import RankK, TopK, Weighting, routing_override
from smoe_mt.search.beam import BeamDecoder
from smoe_mt.search.steps import Contrast, Ensemble, SingleModel, StepScorer
from tests.conftest import TrainedRun

BEAM = Decoding(beam=4, max_len_a=0, max_len_b=12)
GREEDY = dataclasses.replace(BEAM, beam=1)
BETAS = [0.0, 0.5, 3.0]
Opened = Callable[[], AbstractContextManager[None]]
Found = list[list[tuple[list[int], float]]]


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def sources(translator: Translator, trained_run: TrainedRun) -> list[Tensor]:
    lines = (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:8]
    return [translator.loaded.task.encode(line, "en") for line in lines]


@pytest.fixture
def rank2(translator: Translator) -> Opened:
    model = translator.loaded.model
    return partial(routing_override, model, selection=RankK(2), weighting=Weighting.UNIFORM)


@pytest.fixture
def search(translator: Translator, sources: list[Tensor]) -> Callable[..., Found]:
    def find(scorer: StepScorer, decoding: Decoding, prefixes: Sequence[Tensor] = ()) -> Found:
        found = BeamDecoder(scorer, translator.loaded.task.dictionary, decoding)(sources, prefixes)
        return [[(one.tokens.tolist(), one.score) for one in hypotheses] for hypotheses in found]

    return find


@pytest.fixture
def plain(translator: Translator) -> SingleModel:
    return SingleModel(translator.loaded.model)


def tokens(found: Found) -> list[list[list[int]]]:
    return [[one for one, _ in hypotheses] for hypotheses in found]


def test_the_routings_of_this_model_differ(search: Any, plain: SingleModel, rank2: Opened) -> None:
    """Or else no test of this file would say anything."""
    assert tokens(search(plain, GREEDY)) != tokens(search(SingleModel(plain.model, rank2), GREEDY))
    assert tokens(search(Contrast(plain, rank2, 3.0, 0.1), GREEDY)) != tokens(search(plain, GREEDY))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_beta_0_is_the_models_own_greedy_search(search: Any, plain: SingleModel, rank2: Opened, alpha: float) -> None:
    assert tokens(search(Contrast(plain, rank2, 0.0, alpha), GREEDY)) == tokens(search(plain, GREEDY))


def test_beta_0_without_a_mask_is_the_models_own_beam_search(search: Any, plain: SingleModel, rank2: Opened) -> None:
    ours, theirs = search(Contrast(plain, rank2, 0.0, 0.0), BEAM), search(plain, BEAM)
    assert tokens(ours) == tokens(theirs)
    scores = [[score for _, score in hypotheses] for found in (ours, theirs) for hypotheses in found]
    half = len(scores) // 2
    for mine, other in zip(scores[:half], scores[half:]):
        assert mine == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("beta", BETAS)
def test_equal_routings_cancel(search: Any, plain: SingleModel, beta: float) -> None:
    assert tokens(search(Contrast(plain, nullcontext, beta, 0.0, True), BEAM)) == tokens(search(plain, BEAM))


@pytest.mark.parametrize("beta", BETAS)
def test_alpha_1_is_the_models_own_greedy_search(search: Any, plain: SingleModel, rank2: Opened, beta: float) -> None:
    greedy = tokens(search(plain, GREEDY))
    assert tokens(search(Contrast(plain, rank2, beta, 1.0), GREEDY)) == greedy
    assert tokens(search(Contrast(plain, rank2, beta, 1.0), BEAM)) == greedy, (
        "one beam that lives, which ends the search"
    )


def log_probs_by_hand(
    model: Any, source: Tensor, prefix: Tensor, weak: Opened, beta: float, alpha: float, own: bool
) -> Tensor:
    """Equations 5 to 7 of the paper in float64, from whole passes without a cache."""

    def logits(routing: Opened, encoder_routing: Opened) -> Tensor:
        with encoder_routing():
            encoded = model.encoder(source[None], torch.tensor([len(source)]))
        with routing():
            output: Tensor = model.decoder(prefix[None], encoder_out=encoded)[0]
        return output[0, -1].double()

    strong, weaker = logits(nullcontext, nullcontext), logits(weak, weak if own else nullcontext)
    z = (1 + beta) * strong - beta * weaker
    valid = strong >= math.log(alpha) + strong.max()
    return z.masked_fill(~valid, -math.inf).log_softmax(0)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("beta", "alpha"), [(0.5, 0.1), (3.0, 0.001)])
def test_scores_are_those_of_the_paper_with_a_cache_or_without(
    translator: Translator,
    sources: list[Tensor],
    plain: SingleModel,
    rank2: Opened,
    beta: float,
    alpha: float,
    own: bool,
) -> None:
    eos, model = translator.loaded.task.dictionary.eos(), translator.loaded.model
    scorer = Contrast(plain, rank2, beta, alpha, own)
    output = torch.tensor([eos, *sources[0][1:4].tolist()])
    with torch.no_grad(), scorer.searching(1):
        state = scorer.start(sources[0][None], torch.tensor([len(sources[0])]), 1)
        for length in range(1, len(output) + 1):
            found = scorer.log_probs(output[None, None, :length], state)[0, 0]
            expected = log_probs_by_hand(model, sources[0], output[:length], rank2, beta, alpha, own)
            torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)
            assert found.exp().sum() == pytest.approx(1, abs=1e-4)


def test_the_strong_pass_is_untouched_by_the_weak_one(
    sources: list[Tensor], plain: SingleModel, rank2: Opened, translator: Translator
) -> None:
    batch, lengths = (
        torch.nn.utils.rnn.pad_sequence(sources, True, translator.loaded.task.dictionary.pad()),
        torch.tensor([len(s) for s in sources]),
    )
    output = torch.full((len(sources), 1, 1), translator.loaded.task.dictionary.eos())
    scorer = Contrast(plain, rank2, 0.5, 0.1)
    with torch.no_grad(), scorer.searching(1):
        alone, both = plain.start(batch, lengths, 1), scorer.start(batch, lengths, 1)
        for _ in range(3):
            expected = plain.log_probs(output, alone)
            scorer.log_probs(output, both)
            best = expected.argmax(-1, keepdim=True)
            output = torch.cat([output, best], 2)
        assert plain.log_probs(output, both.strong).equal(plain.log_probs(output, alone))
        own = [each for each in alone.incremental if "attn_state" in each]
        assert own and alone.incremental.keys() == both.strong.incremental.keys()
        for name in own:
            for key, value in alone.incremental[name].items():
                assert value is None or value.equal(both.strong.incremental[name][key])


@pytest.mark.parametrize("own", [False, True])
def test_a_search_is_independent_of_its_batch(
    translator: Translator, sources: list[Tensor], search: Any, plain: SingleModel, rank2: Opened, own: bool
) -> None:
    scorer = Contrast(plain, rank2, 0.7, 0.1, own)
    decoder = BeamDecoder(scorer, translator.loaded.task.dictionary, BEAM)
    alone = [decoder([source])[0] for source in sources]
    for mine, together in zip(alone, search(scorer, BEAM), strict=True):
        assert [one.tokens.tolist() for one in mine] == [one for one, _ in together]
        assert [one.score for one in mine] == pytest.approx([score for _, score in together], abs=1e-4)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_every_source_gets_an_output_whatever_the_search_forbids(
    search: Any, sources: list[Tensor], plain: SingleModel, rank2: Opened, alpha: float
) -> None:
    scorer = Contrast(plain, rank2, 0.5, alpha)
    for decoding in (Decoding(3, max_len_a=0, max_len_b=1), Decoding(3, max_len_a=0, max_len_b=12, min_len=9)):
        for hypotheses in search(scorer, decoding):
            assert hypotheses and all(math.isfinite(score) for _, score in hypotheses)
            assert all(decoding.min_len <= len(one) <= decoding.limit(0) for one, _ in hypotheses)


def test_a_prefix_is_kept_though_it_is_not_valid(
    search: Any, sources: list[Tensor], plain: SingleModel, rank2: Opened
) -> None:
    prefixes = [sources[(place + 1) % len(sources)][1:3] for place in range(len(sources))]
    for hypotheses, prefix in zip(search(Contrast(plain, rank2, 0.5, 1.0), BEAM, prefixes), prefixes, strict=True):
        assert hypotheses and all(one[:2] == prefix.tolist() for one, _ in hypotheses)


def test_an_ensemble_of_a_contrast_with_itself_is_that_contrast(search: Any, plain: SingleModel, rank2: Opened) -> None:
    scorer = Contrast(plain, rank2, 0.5, 0.1)
    assert tokens(search(Ensemble([scorer, scorer]), BEAM)) == tokens(search(scorer, BEAM))


def test_another_routing_of_the_strong_pass_is_left_by_the_weak_one(
    search: Any, plain: SingleModel, rank2: Opened
) -> None:
    first = partial(routing_override, plain.model, selection=TopK(1))
    strong = SingleModel(plain.model, first)
    assert tokens(search(Contrast(strong, rank2, 0.0, 0.0), BEAM)) == tokens(search(strong, BEAM))
    assert tokens(search(Contrast(strong, rank2, 1.0, 1.0), GREEDY)) == tokens(search(strong, GREEDY))
