"""n-best lists, scores and visits, on a real tiny model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import smoe_mt
from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding, Translator
from smoe_mt.generation.details import Visits
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def sentences(trained_run: TrainedRun) -> list[str]:
    return (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:6]


def test_the_best_is_what_translate_gives(translator: Translator, sentences: list[str]) -> None:
    lines = [sentences[0], " ", *sentences[1:]]
    found = translator.translate_in_detail(lines, "aa", "en", Decoding(4), nbest=3)
    assert [one.text for one in found] == translator.translate(lines, "aa", "en", beam=4)
    assert [one.source for one in found] == lines
    assert len(found[1].candidates) == 1 and found[1].text == ""
    for one in found[2:]:
        scores = [candidate.score for candidate in one.candidates]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True) and one.score == scores[0]


def test_visits_are_those_of_each_pair_alone(translator: Translator, sentences: list[str]) -> None:
    task, model = translator.loaded.task, translator.loaded.model
    found = translator.translate_in_detail(sentences, "aa", "en", nbest=2, routing=True, max_tokens=20)
    for one in found:
        for candidate in one.candidates:
            source, target = candidate.source_visits, candidate.target_visits
            assert source is not None and target is not None
            tokens = task.encode(one.source, "en")
            assert source.pieces == tuple(task.dictionary[int(token)] for token in tokens)
            assert target.pieces[0] == "</s>" and task.spm.decode_pieces(list(target.pieces[1:])) == candidate.text
            read = torch.tensor([[task.dictionary.index(piece) for piece in target.pieces]])
            with torch.no_grad():
                _, extra = model(tokens[None], torch.tensor([len(tokens)]), read)
            assert source.blocks == {"encoder.layers.1": tuple(extra["encoder_routing"][0].visits[0].tolist())}
            assert target.blocks == {"decoder.layers.1": tuple(extra["decoder_routing"][0].visits[0].tolist())}
    counts = [
        count
        for one in found
        for candidate in one.candidates
        for count in candidate.source_visits.blocks["encoder.layers.1"]
    ]  # type: ignore[union-attr]
    assert set(counts) <= {1, 2}


def test_without_routing_no_visits(translator: Translator, sentences: list[str]) -> None:
    assert translator.translate_in_detail(sentences[:1], "aa", "en")[0].candidates[0].source_visits is None


def test_means_over_blocks() -> None:
    assert Visits(("a", "b"), {2: (1, 2), 4: (2, 2)}).means() == (1.5, 2.0)
    assert Visits(("a", "b"), {}).means() == ()


@pytest.mark.parametrize("nbest", [0, 6])
def test_more_than_the_beam_is_refused(translator: Translator, nbest: int) -> None:
    with pytest.raises(UserError, match=f"nbest is {nbest}: it must be from 1 to the beam size, 5"):
        translator.translate_in_detail(["a"], "aa", "en", nbest=nbest)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision(trained_run: TrainedRun, sentences: list[str], dtype: str, expected: torch.dtype) -> None:
    half = Translator.from_pretrained(trained_run.folder, device="cpu", dtype=dtype)
    assert next(half.loaded.model.parameters()).dtype is expected
    found = half.translate_in_detail(sentences, "aa", "en", routing=True)
    full = Translator.from_pretrained(trained_run.folder, device="cpu").translate_in_detail(sentences, "aa", "en")
    for one, other in zip(found, full):
        assert one.score == pytest.approx(other.score, abs=0.1)


def test_an_unknown_dtype(trained_run: TrainedRun) -> None:
    with pytest.raises(UserError, match="unknown dtype 'fp8': use fp32, bf16, fp16"):
        Translator.from_pretrained(trained_run.folder, device="cpu", dtype="fp8")


def test_the_name_at_the_top_is_fetched_when_it_is_asked_for() -> None:
    program = "import sys, smoe_mt; assert 'torch' not in sys.modules and 'fairseq' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert smoe_mt.Translator is Translator
    with pytest.raises(AttributeError, match="no attribute 'Translater'"):
        smoe_mt.Translater  # noqa: B018
