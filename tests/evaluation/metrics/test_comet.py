"""COMET with a package and a model that are made up: what it is handed, what it says, and what is said where it is not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smoe_mt.checksums import sha256_file
from smoe_mt.errors import UserError
from smoe_mt.evaluation.evaluate import _score
from smoe_mt.evaluation.metrics import comet
from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score
from smoe_mt.evaluation.selection import choose_metrics

CORPUS = Corpus("nso-en", ("Le gae?", "Thabo"), ("How?", "Joy"), ("How are you?", "Happiness"))


class LengthModel:
    """Rates a translation by its length beside the reference's."""

    def predict(self, samples: Sequence[dict[str, str]], batch_size: int, gpus: int, progress_bar: bool) -> Any:
        assert [*samples[0]] == ["src", "mt", "ref"] and gpus == 0 and not progress_bar
        ratings = [len(each["mt"]) / len(each["ref"]) for each in samples]
        return SimpleNamespace(scores=ratings, system_score=sum(ratings) / len(ratings))


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(comet.MODEL, raising=False)
    for name in comet.OFFLINE:
        monkeypatch.setenv(name, "1")
    yield
    for one in (comet._loader, comet._load, comet._signature):
        one.cache_clear()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model, as COMET saves it, and a package that reads it from the disk alone."""

    def load(path: str, local_files_only: bool) -> LengthModel:
        assert local_files_only
        if Path(path).read_bytes() != b"weights":
            raise RuntimeError("unexpected EOF\nthe file might be corrupted")
        return LengthModel()

    monkeypatch.setitem(sys.modules, "comet", SimpleNamespace(load_from_checkpoint=load))
    monkeypatch.setattr(metadata, "version", {"unbabel-comet": "2.2.7"}.__getitem__)
    folder = tmp_path / "wmt-tiny"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model.ckpt").write_bytes(b"weights")
    (folder / "hparams.yaml").touch()
    return folder


@pytest.mark.parametrize("place", ["", "checkpoints/model.ckpt"])
def test_comet_is_the_mean_rating_by_the_model_on_the_disk(
    model: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(comet.MODEL, str(model / place))
    (metric,), _ = choose_metrics(["comet"])
    score = metric.compute(CORPUS)
    assert score is not None and score.value == pytest.approx((4 / 12 + 3 / 9) / 2)
    checksum = sha256_file(model / "checkpoints" / "model.ckpt")[:8]
    assert score.signature == f"COMET:2.2.7|model:wmt-tiny|sha256:{checksum}"


def test_a_model_in_the_cache_of_hugging_face_has_its_name() -> None:
    assert comet._name(Path("hub/models--Unbabel--wmt22-comet-da/snapshots/0a1b")) == "models--Unbabel--wmt22-comet-da"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(UserError, match=r"pip install 'smoe_mt\[comet\]'"):
        choose_metrics(["comet"])
    assert "unbabel-comet" in choose_metrics(["all"])[1]["comet"]


def test_without_a_model_it_says_where_one_belongs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="set SMOE_MT_COMET in the environment to its folder"):
        choose_metrics(["comet"])
    monkeypatch.setenv(comet.MODEL, str(model / "checkpoints"))
    with pytest.raises(UserError, match="no model of COMET, .*model.ckpt is not there"):
        choose_metrics(["comet"])


def test_a_damaged_model_is_named_in_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(comet.MODEL, str(model))
    (model / "checkpoints" / "model.ckpt").write_bytes(b"weig")
    with pytest.raises(UserError, match=r"model.ckpt: COMET cannot load it \(unexpected EOF\)") as caught:
        comet.METRIC.compute(CORPUS)
    assert "\n" not in str(caught.value)


def test_a_large_metric_is_computed_in_this_process_alone() -> None:
    def of_process(here: bool) -> Metric:
        return Metric(f"pid{here}", "", "", 0, lambda corpus: Score(os.getpid()), in_one_process=here)

    corpora = [CORPUS, Corpus("en-nso", *(CORPUS.hypotheses, CORPUS.sources, CORPUS.sources))]
    scores, baselines = _score(corpora, [of_process(True), of_process(False)], "run", processes=2)
    for each in (*scores.values(), *baselines["copy"].values()):
        assert each.values["pidTrue"] == os.getpid() != each.values["pidFalse"]
