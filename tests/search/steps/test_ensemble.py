"""Several models that translate together."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt import cli
from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding, LoadedModel, Translator
from smoe_mt.search.beam import BeamDecoder
from smoe_mt.search.steps import Ensemble, SingleModel
from tests.conftest import TrainedRun

DECODING = Decoding(beam=4, max_len_a=0, max_len_b=12)


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def sources(translator: Translator, trained_run: TrainedRun) -> list[Tensor]:
    lines = (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:6]
    return [translator.loaded.task.encode(line, "en") for line in lines]


def another(model: Any) -> Any:
    """The model with noise in its weights, so that it says something else."""
    noisy = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return noisy


def search(scorer: Any, task: Any, sources: Sequence[Tensor]) -> list[list[tuple[list[int], float]]]:
    found = BeamDecoder(scorer, task.dictionary, DECODING)(sources)
    return [[(one.tokens.tolist(), one.score) for one in hypotheses] for hypotheses in found]


def test_of_one_model_twice_is_that_model(translator: Translator, sources: list[Tensor]) -> None:
    member = SingleModel(translator.loaded.model)
    twice = search(Ensemble([member, SingleModel(another(member.model)), member]), translator.loaded.task, sources)
    same = search(Ensemble([member, member]), translator.loaded.task, sources)
    alone = search(member, translator.loaded.task, sources)
    for ours, theirs in zip(same, alone, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)
    assert twice != same, "a member that says something else changes nothing"


def test_searches_as_fairseqs_ensemble(translator: Translator, sources: list[Tensor]) -> None:
    task, model = translator.loaded.task, translator.loaded.model
    other = another(model)
    found = search(Ensemble([SingleModel(model), SingleModel(other)]), task, sources)
    generator = task.build_generator([model, other], Namespace(beam=4, max_len_a=0, max_len_b=12))
    expected = generator.generate([model, other], task.collate(sources))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[0][0] == theirs[0]["tokens"][:-1].tolist()
        assert mine[0][1] == pytest.approx(float(theirs[0]["score"]), abs=1e-4)


def test_log_probs_are_those_of_the_mean_probability(translator: Translator, sources: list[Tensor]) -> None:
    members = [SingleModel(translator.loaded.model), SingleModel(another(translator.loaded.model))]
    tokens, lengths = sources[0][None], torch.tensor([len(sources[0])])
    prefix = torch.full((1, 2, 1), translator.loaded.task.dictionary.eos())
    with torch.no_grad():
        each = [one.log_probs(prefix, one.start(tokens, lengths, 2)).exp() for one in members]
        both = Ensemble(members)
        together = both.log_probs(prefix, both.start(tokens, lengths, 2)).exp()
    torch.testing.assert_close(together, torch.stack(each).mean(0))


def of(loaded: LoadedModel, name: str, sha256: str, directions: tuple[str, ...]) -> LoadedModel:
    vocabulary = replace(loaded.task.vocabulary, sha256=sha256)
    task = SimpleNamespace(vocabulary=vocabulary, directions=directions, dictionary=loaded.task.dictionary)
    return replace(loaded, checkpoint=Path(name), task=task)


def test_of_other_vocabularies_is_refused(translator: Translator) -> None:
    loaded = translator.loaded
    other = of(loaded, "other.pt", "0" * 64, loaded.task.directions)
    with pytest.raises(UserError, match="checkpoint_best.pt and other.pt cannot translate together: .* vocabularies"):
        Translator(loaded, other)


def test_knows_the_directions_that_all_members_know(translator: Translator) -> None:
    loaded = translator.loaded
    same = loaded.task.vocabulary.sha256
    assert Translator(loaded, of(loaded, "b.pt", same, ("xx-en", "aa-en"))).directions == ("aa-en",)
    with pytest.raises(UserError, match="no direction that both know"):
        Translator(loaded, of(loaded, "b.pt", same, ("xx-en",)))


def test_translate_with_several_models(trained_run: TrainedRun, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text((trained_run.data / "text" / "test.aa-en.aa").read_text())
    command = ["translate", str(text), "-s", "aa", "-t", "en", "--device", "cpu"]
    models = ["-m", str(trained_run.folder), "-m", str(trained_run.folder / "checkpoint_last.pt")]
    assert cli.main([*command, *models[:2], "-o", str(tmp_path / "one")]) == 0
    assert cli.main([*command, *models, "-o", str(tmp_path / "both")]) == 0
    lines = (tmp_path / "both").read_text().splitlines()
    assert len(lines) == len((tmp_path / "one").read_text().splitlines()) == len(text.read_text().splitlines())


def test_routing_of_several_models_is_refused(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["-m", str(trained_run.folder)] * 2
    text = str(trained_run.data / "text" / "test.aa-en.aa")
    assert cli.main(["translate", text, *models, "-s", "aa", "-t", "en", "--routing", "--device", "cpu"]) == 2
    assert (
        capsys.readouterr().err == "error: routing is that of one model: ask each model of the ensemble for its own\n"
    )


def test_evaluate_an_ensemble(trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = [str(trained_run.folder / f"checkpoint_{name}.pt") for name in ("best", "last")]
    command = ["evaluate", *checkpoints, "--ensemble", "--limit", "3", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["ensemble"] == checkpoints and len(scores["directions"]) == 4
    assert cli.main([*command[:2], "--ensemble", "--device", "cpu"]) == 2
    assert "--ensemble needs two runs or more" in capsys.readouterr().err
