"""The verb ``analyse`` on a real tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smoe_mt import cli
from smoe_mt.analysis.capacity import Request, requested_capacity, require_strata
from smoe_mt.analysis.forced import forced_batches
from smoe_mt.errors import UserError
from smoe_mt.evaluation.selection import read_text
from smoe_mt.generation import LoadedModel, load_model
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def loaded(trained_run: TrainedRun) -> LoadedModel:
    return load_model(trained_run.folder, device="cpu")


def test_reads_what_the_task_trains_on(loaded: LoadedModel) -> None:
    """Teacher forcing from raw text is the batch that the task makes from its binarised files."""
    task = loaded.task
    task.load_dataset("test")
    dataset = task.datasets["test"]
    expected = dataset.collater([dataset[index] for index in range(20)])  # aa-en comes first
    text = read_text(task, "test", "aa-en", None)
    (found,) = forced_batches(task, loaded.model, text, max_tokens=10_000)
    order = sorted(range(20), key=lambda index: -max(_lengths(expected, task.dictionary.pad())[index]))
    for name in ("src_tokens", "prev_output_tokens"):
        assert torch.equal(found[name], expected["net_input"][name][order])


def _lengths(sample: dict[str, dict[str, torch.Tensor]], pad: int) -> list[tuple[int, int]]:
    sides = [sample["net_input"][name].ne(pad).sum(1).tolist() for name in ("src_tokens", "prev_output_tokens")]
    return list(zip(*sides))


def test_tag_and_end_of_sentence_count(loaded: LoadedModel) -> None:
    report = requested_capacity(loaded, Request(limit=4, directions=("aa-en",)), "run")
    text = read_text(loaded.task, "test", "aa-en", 4)
    source = sum(len(loaded.task.encode(line, "en")) for line in text.sources)
    target = sum(len(loaded.task.encode(line, "en")) - 1 for line in text.references)
    assert report.visits.tokens("encoder", "aa-en") == source
    assert report.visits.tokens("decoder", "aa-en") == target


def test_batches_do_not_change_the_counts(loaded: LoadedModel) -> None:
    one = requested_capacity(loaded, Request(max_tokens=10_000), "run").as_json()
    many = requested_capacity(loaded, Request(max_tokens=10), "run").as_json()
    assert one == many


def test_load_counts_every_slot(loaded: LoadedModel) -> None:
    """Each visit asks for top-2 slots."""
    report = requested_capacity(loaded, Request(directions=("en-bb",)), "run")
    for block in report.visits.blocks:
        counts = report.visits.total(block)
        visits = int((counts * torch.arange(1, len(counts) + 1)).sum())
        assert int(sum(gate.sum() for gate in report.load.asked["en-bb"][block])) == 2 * visits


def test_sentences_longer_than_the_model_are_cut(loaded: LoadedModel) -> None:
    text = read_text(loaded.task, "test", "aa-en", None)
    long = type(text)("aa-en", (" ".join(text.sources),), (), (" ".join(text.references),))
    (batch,) = forced_batches(loaded.task, loaded.model, long, max_tokens=100)
    assert batch["src_tokens"].shape == batch["prev_output_tokens"].shape == (1, 64)


def test_numbers_figures_and_histograms(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyse", str(trained_run.folder), "--out", str(tmp_path), "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "requested_capacity.json").read_text())
    assert list(content["blocks"]) == ["encoder.2", "decoder.2"]
    assert content["model"] == "SMoE-2-2" and content["strata"] == 2
    for entry in content["blocks"].values():
        assert 1 <= entry["mean"] <= 2 and sum(entry["histogram"]) == pytest.approx(1)
    shown = capsys.readouterr().out
    assert "encoder layer 2: mean" in shown and "  2 visits" in shown and "requested_capacity.json" in shown


@pytest.mark.parametrize("kind", ["none", "vanilla"])
def test_models_without_strata_are_refused(loaded: LoadedModel, kind: str) -> None:
    config = loaded.config.copy()
    config.model.moe = kind
    flat = LoadedModel(loaded.model, loaded.task, config, loaded.checkpoint, loaded.updates)
    with pytest.raises(UserError, match=f"--moe {kind} has no strata"):
        require_strata(flat)
