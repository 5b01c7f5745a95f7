"""A prepared decoder searches as fairseq's does: the same hypotheses, scores to rounding."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from torch import Tensor

from smoe_mt.models import SMoETransformerModel
from smoe_mt.moe import SYSTEMS, RankK, TopK, Weighting, routing_override
from smoe_mt.search.beam import BeamDecoder, Decoding
from smoe_mt.search.decoder import prepare
from smoe_mt.search.decoder.prepared import compute_in_int8, computes_in_int8, unknown_part
from smoe_mt.search.steps import Contrast, Ensemble, PreparedModel, SingleModel, StepScorer, scorer_of

MakeModel = Callable[..., SMoETransformerModel]
DECODING = Decoding(beam=4, max_len_a=1.5, max_len_b=4)


def some_sources(count: int = 9, longest: int = 12) -> list[Tensor]:
    """Of different lengths, so that there is padding and sentences end at different steps."""
    torch.manual_seed(2)
    lengths = torch.randint(1, longest, (count,)).tolist()
    return [torch.cat([torch.randint(4, 24, (length,)), torch.tensor([2])]) for length in lengths]


def lively(model: Any) -> Any:
    """With larger embeddings, so that outputs differ and end."""
    with torch.no_grad():
        model.decoder.output_projection.weight.mul_(3.0)
    return model.eval()


def search(
    scorer: StepScorer, task: Any, decoding: Decoding = DECODING, sources: Sequence[Tensor] = (), **options: Any
) -> list[list[tuple[list[int], float]]]:
    found = BeamDecoder(scorer, task.source_dictionary, decoding)(sources or some_sources(), **options)
    return [[(one.tokens.tolist(), one.score) for one in each] for each in found]


def assert_same(found: Any, wanted: Any) -> None:
    assert [[tokens for tokens, _ in each] for each in found] == [[tokens for tokens, _ in each] for each in wanted]
    for ours, theirs in zip(found, wanted):
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=2e-5)


def settings_of(system: str) -> dict[str, Any]:
    return {"moe": system, "strata": "2,3", "num_experts": 4}


@pytest.mark.parametrize("system", ["none", *SYSTEMS])
def test_every_system(make_model: MakeModel, task: Any, system: str) -> None:
    model = lively(make_model(**settings_of(system)))
    scorer = scorer_of(model)
    assert isinstance(scorer, PreparedModel)
    assert_same(search(scorer, task), search(SingleModel(model), task))


OPTIONS = {
    "one beam": Decoding(beam=1),
    "many beams": Decoding(beam=11, max_len_a=1.0),
    "a least length": Decoding(beam=3, min_len=5),
    "longer than the first room": Decoding(beam=2, min_len=20, max_len_b=30),
    "no room": Decoding(beam=3, max_len_a=0, max_len_b=2),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("system", ["none", "stratified"])
def test_every_decoding(make_model: MakeModel, task: Any, system: str, name: str) -> None:
    model = lively(make_model(**settings_of(system)))
    assert_same(search(scorer_of(model), task, OPTIONS[name]), search(SingleModel(model), task, OPTIONS[name]))


def test_prefixes(make_model: MakeModel, task: Any) -> None:
    model, sources = lively(make_model(**settings_of("stratified"))), some_sources(5)
    prefixes = [torch.randint(4, 24, (length,)) for length in (0, 3, 1, 9, 2)]
    found = search(scorer_of(model), task, sources=sources, prefixes=prefixes)
    assert_same(found, search(SingleModel(model), task, sources=sources, prefixes=prefixes))
    for mine, prefix in zip(found, prefixes):
        assert all(tokens[: len(prefix)] == prefix.tolist() for tokens, _ in mine)


@pytest.mark.parametrize(
    "settings",
    [
        {"share_all_embeddings": False},
        {"encoder_embed_dim": 8, "share_all_embeddings": False},
        {"activation_fn": "gelu"},
        {"variant": "release"},
        {"second_choice": "argmax", "top_k": 1},
        {"shared_experts": 1},
        {"balance_bias": 0.1},
        {"gate_bias": True},
    ],
)
def test_every_kind_of_model(make_model: MakeModel, task: Any, settings: dict[str, Any]) -> None:
    model = lively(make_model(**settings_of("stratified") | settings))
    assert_same(search(scorer_of(model), task), search(SingleModel(model), task))


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_fairseqs_own_transformer(task: Any, pre_norm: bool, learned: bool) -> None:
    sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2, "normalize_before": pre_norm}
    flat = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()}
    flat |= {f"{side}_learned_pos": learned for side in ("encoder", "decoder")}
    flat |= {"decoder_input_dim": 16, "decoder_output_dim": 16, "share_decoder_input_output_embed": True}
    positions = {"max_source_positions": 64, "max_target_positions": 64}
    cfg = TransformerConfig.from_namespace(Namespace(**flat, **positions))
    torch.manual_seed(1)
    model = lively(TransformerModelBase.build_model(cfg, task))
    scorer = scorer_of(model)
    assert isinstance(scorer, PreparedModel)
    assert_same(search(scorer, task), search(SingleModel(model), task))


def test_another_routing(make_model: MakeModel, task: Any) -> None:
    model = lively(make_model(**settings_of("stratified")))
    routing = partial(routing_override, model, selection=TopK(1), weighting=Weighting.RAW)
    found = search(scorer_of(model, routing), task)
    assert_same(found, search(SingleModel(model, routing), task))
    assert found != search(scorer_of(model), task)


@pytest.mark.parametrize("own_encoder", [True, False])
def test_contrast(make_model: MakeModel, task: Any, own_encoder: bool) -> None:
    model = lively(make_model(**settings_of("vanilla")))
    weak = partial(routing_override, model, selection=RankK(2), weighting=Weighting.UNIFORM)
    ours, theirs = (Contrast(one, weak, 0.5, 0.01, own_encoder) for one in (scorer_of(model), SingleModel(model)))
    assert_same(search(ours, task), search(theirs, task))


def test_an_ensemble_of_systems(make_model: MakeModel, task: Any) -> None:
    models = [lively(make_model(**settings_of(system))) for system in ("none", "stratified")]
    ours, theirs = (Ensemble([kind(model) for model in models]) for kind in (scorer_of, SingleModel))
    assert_same(search(ours, task), search(theirs, task))


@pytest.mark.parametrize("system", ["none", "stratified"])
def test_does_not_depend_on_the_batch(make_model: MakeModel, task: Any, system: str) -> None:
    """Many sentences, which are routed with tensors, and one, which Python routes."""
    scorer, sources = scorer_of(lively(make_model(**settings_of(system)))), some_sources(18)
    together = search(scorer, task, sources=sources)
    assert_same(together, [search(scorer, task, sources=[source])[0] for source in sources])


on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
PLACES = [
    pytest.param("cuda", torch.bfloat16, marks=on_gpu),
    pytest.param("cuda", torch.float16, marks=on_gpu),
    ("cpu", torch.bfloat16),
]


@pytest.mark.parametrize("system", ["none", "vanilla", "stratified", "xmoe"])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_in_half_precision(make_model: MakeModel, task: Any, system: str, device: str, dtype: torch.dtype) -> None:
    """Several steps, which a GPU replays as graphs."""
    model = lively(make_model(**settings_of(system))).to(device, dtype)
    sources, eos = some_sources(3), 2
    tokens = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=1)
    prefixes = torch.randint(4, 24, (3, 2, 6))
    prefixes[:, :, 0] = eos
    lengths, prefixes = torch.tensor([len(source) for source in sources]), prefixes.to(device)
    ours, theirs = scorer_of(model), SingleModel(model)
    assert isinstance(ours, PreparedModel)
    with torch.inference_mode():
        with ours.searching(2):
            got = ours.log_probs(prefixes, ours.start(tokens, lengths, 2))
        with theirs.searching(2):
            state = theirs.start(tokens, lengths, 2)
            wanted = [theirs.log_probs(prefixes[:, :, : step + 1], state) for step in range(6)][-1]
    captured = ours.decoder.captured
    assert captured is None if device == "cpu" else captured is not None and not captured.refused
    assert got.dtype is torch.float32
    assert (got - wanted).abs().mean() < 0.05


def test_weights_that_change_are_prepared_anew(make_model: MakeModel, task: Any) -> None:
    model = lively(make_model(moe="none"))
    before = prepare(model.decoder)
    assert prepare(model.decoder) is before
    with torch.no_grad():
        model.decoder.layers[0].fc1.weight.mul_(-2.0)
    assert prepare(model.decoder) is not before
    assert_same(search(scorer_of(model), task), search(SingleModel(model), task))


def test_an_unknown_decoder_is_searched_by_itself(make_model: MakeModel, task: Any) -> None:
    model = lively(make_model(moe="none"))
    assert unknown_part(SimpleNamespace()) == "a SimpleNamespace"
    model.decoder.layernorm_embedding = torch.nn.LayerNorm(16)
    assert unknown_part(model.decoder) == "layernorm_embedding"
    scorer = scorer_of(model)
    assert isinstance(scorer, SingleModel)
    assert all(math.isfinite(score) for each in search(scorer, task) for _, score in each)


@pytest.mark.parametrize("system", ["none", "vanilla", "stratified", "hmoe"])
def test_in_int8_a_step_is_close_to_that_in_float32(make_model: MakeModel, task: Any, system: str) -> None:
    model, tokens_BS = make_model(**settings_of(system)).eval(), torch.tensor([[5, 6, 7, 2], [8, 9, 4, 2]])
    lengths_B, prefixes = torch.tensor([4, 4]), torch.full((2, 3, 1), 2)

    def step() -> Tensor:
        scorer = scorer_of(model)
        with torch.inference_mode(), scorer.searching(3):
            return scorer.log_probs(prefixes, scorer.start(tokens_BS, lengths_B, 3))

    wanted = step()
    if not torch.cpu._is_vnni_supported():
        pytest.skip("no VNNI")
    compute_in_int8(model)
    found = step()
    assert computes_in_int8(model) and not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.1)


def test_weights_that_an_optimiser_changed_unseen_are_prepared_anew(make_model: MakeModel, task: Any) -> None:
    """fairseq's work on ``parameter.data``, whose changes torch does not count."""
    model = make_model(**settings_of("none")).eval()
    before = prepare(model.decoder)
    model.train()
    model.decoder.output_projection.weight.data.mul_(2.0)
    after = prepare(model.eval().decoder)
    assert after is not before and after is prepare(model.decoder)
