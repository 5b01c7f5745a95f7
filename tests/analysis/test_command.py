"""The verb ``analyse`` on a real tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from smoe_mt import cli
from smoe_mt.analysis import forced
from smoe_mt.analysis.capacity import Request, model_title, requested_capacity, strata_of
from smoe_mt.analysis.command import analyse
from smoe_mt.analysis.forced import direction_texts, forced_batches
from smoe_mt.errors import UserError
from smoe_mt.evaluation.selection import read_text
from smoe_mt.generation import LoadedModel, load_model
from tests.conftest import TrainedRun, train
from tests.toy import make_toy_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(trained_run: TrainedRun) -> LoadedModel:
    return load_model(trained_run.folder, device="cpu")


def test_reads_what_the_task_trains_on(loaded: LoadedModel) -> None:
    """Teacher forcing is the batch that the task makes for its own training and validation."""
    task = loaded.task
    (text,) = direction_texts(task, "test", ("aa-en",))
    dataset = task.datasets["test"]
    expected = dataset.collater([dataset[index] for index in range(20)])  # aa-en comes first
    (found,) = forced_batches(task, loaded.model, text, None, max_tokens=10_000)
    order = sorted(range(20), key=lambda index: -max(_lengths(expected, task.dictionary.pad())[index]))
    assert found.lines == tuple(order)
    for name in ("src_tokens", "prev_output_tokens"):
        assert torch.equal(found.net_input[name], expected["net_input"][name][order])


def test_raw_text_and_binarised_text_are_the_same(loaded: LoadedModel) -> None:
    (text,) = direction_texts(loaded.task, "test", ("en-bb",))
    (found,) = forced_batches(loaded.task, loaded.model, text, 1, max_tokens=10_000)
    raw = read_text(loaded.task, "test", "en-bb")
    assert found.net_input["src_tokens"][0].tolist() == loaded.task.encode(raw.sources[0], "bb").tolist()


def test_windows_read_every_line_once(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forced, "WINDOW", 6)
    (text,) = direction_texts(loaded.task, "test", ("aa-en",))
    batches = list(forced_batches(loaded.task, loaded.model, text, 15, max_tokens=10_000))
    assert [sorted(batch.lines) for batch in batches] == [[*range(6)], [*range(6, 12)], [*range(12, 15)]]


def _lengths(sample: dict[str, dict[str, torch.Tensor]], pad: int) -> list[tuple[int, int]]:
    sides = [sample["net_input"][name].ne(pad).sum(1).tolist() for name in ("src_tokens", "prev_output_tokens")]
    return list(zip(*sides))


def test_tag_and_end_of_sentence_count(loaded: LoadedModel) -> None:
    report = requested_capacity(loaded, Request(limit=4, directions=("aa-en",)), "run")
    text = read_text(loaded.task, "test", "aa-en").first(4)
    source = sum(len(loaded.task.encode(line, "en")) for line in text.sources)
    target = sum(len(loaded.task.encode(line, "en")) - 1 for line in text.references)
    assert report.visits.tokens("encoder", "aa-en") == source
    assert report.visits.tokens("decoder", "aa-en") == target


def test_batches_do_not_change_the_counts(loaded: LoadedModel) -> None:
    """Entropy, a mean of real numbers, is the same to rounding."""
    one, many = (requested_capacity(loaded, Request(max_tokens=most), "run") for most in (10_000, 10))
    first, second = one.as_json(), many.as_json()
    for direction in one.directions:
        entropies = [content["directions"][direction].pop("gate_entropy_nats") for content in (first, second)]
        for block, means in entropies[0].items():
            assert means == pytest.approx(entropies[1][block], rel=1e-5)
    assert first == second


def test_load_counts_every_slot(loaded: LoadedModel) -> None:
    """Each visit asks for top-2 slots."""
    report = requested_capacity(loaded, Request(directions=("en-bb",)), "run")
    for block in report.visits.blocks:
        counts = report.visits.total(block)
        visits = int((counts * torch.arange(1, len(counts) + 1)).sum())
        assert int(sum(gate.sum() for gate in report.load.asked["en-bb"][block])) == 2 * visits


class LongText:
    """One sentence of 100 tokens, where a TokenFile is expected."""

    sizes = np.array([100], dtype=np.int32)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, line: int) -> np.ndarray:
        return np.array([5] * 99 + [2])


def test_sentences_longer_than_the_model_are_cut(loaded: LoadedModel) -> None:
    text: Any = SimpleNamespace(name="aa-en", number=0, tag=7, source=LongText(), target=LongText())
    longer = type("Text", (), {**vars(text), "__len__": lambda self: 1})()
    (batch,) = forced_batches(loaded.task, loaded.model, longer, None, max_tokens=100)
    source, target = batch.tokens("encoder"), batch.tokens("decoder")
    assert source.shape == target.shape == (1, 64)
    assert source[0, [0, -1]].tolist() == [7, 2] and target[0, 0] == 2


def test_numbers_figures_and_histograms(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyse", str(trained_run.folder), "--out", str(tmp_path), "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "requested_capacity.json").read_text())
    assert list(content["blocks"]) == ["encoder.layers.1", "decoder.layers.1"]
    assert content["model"] == "SMoE-2-2" and content["strata"] == 2
    for entry in content["blocks"].values():
        assert 1 <= entry["mean"] <= 2 and sum(entry["histogram"]) == pytest.approx(1)
    shown = capsys.readouterr().out
    assert "encoder.layers.1: mean" in shown and "  2 visits" in shown and "requested_capacity.json" in shown

    written = {path.name for path in tmp_path.iterdir()}
    for name in ("token_rank", "expert_load", "stratum_load", "gate_entropy", "language_overlap", "capacity_per_token"):
        assert {f"{name}.{kind}" for kind in ("png", "svg", "pdf", "csv", "json")} <= written


def with_kind(loaded: LoadedModel, kind: str) -> LoadedModel:
    config = loaded.config.copy()
    config.model.moe = kind
    return LoadedModel(loaded.model, loaded.task, config, loaded.checkpoint, loaded.updates)


def test_a_dense_model_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(UserError, match="--moe none has no experts"):
        strata_of(with_kind(loaded, "none"))


def test_the_strata_of_every_kind(loaded: LoadedModel) -> None:
    for kind, strata in (("stratified", (2, 2)), ("stacking", (2, 2)), ("vanilla", (loaded.config.model.num_experts,))):
        assert set(strata_of(with_kind(loaded, kind)).values()) == {strata}
    assert model_title(loaded) == "SMoE-2-2"


def test_a_model_with_one_gate_has_load_and_no_figure_of_capacity(tmp_path: Path) -> None:
    data = make_toy_folder(tmp_path / "data")
    train(data, tmp_path / "run", "--moe", "switch", "--num-experts", "3", updates=2)
    report, written = analyse(load_model(tmp_path / "run", device="cpu"), Request(), tmp_path / "out")
    assert report.visits.strata == 1 and not report.varies
    names = {path.name for path in written}
    assert {"expert_load.svg", "gate_entropy.svg", "language_overlap.svg", "tokens.csv"} <= names
    assert not {name for name in names if name.startswith(("capacity_by", "token_rank"))}


def test_needed_capacity_of_a_model_without_strata_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_toy_folder(tmp_path / "data")
    train(data, tmp_path / "run", "--moe", "switch", "--num-experts", "3", updates=2)
    capsys.readouterr()
    assert (
        cli.main(["analyse", str(tmp_path / "run"), "--needed", "--out", str(tmp_path / "out")]) == cli.EXIT_USER_ERROR
    )
    assert "needed capacity is asked of models with strata" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--limit", "--min-count", "--max-tokens"])
def test_numbers_below_one_are_refused(
    option: str, trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyse", str(trained_run.folder), option, "0"]) == 2
    assert f"argument {option}: '0' must be a whole number from 1" in capsys.readouterr().err
