"""``smoe-mt checkpoint prune``: from a run to a checkpoint that does all that others do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt import cli
from smoe_mt.analysis.capacity import Request, requested_capacity
from smoe_mt.checkpoints.edit.average import checkpoints_of
from smoe_mt.checkpoints.inspection import inspect_checkpoint
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.errors import UserError
from smoe_mt.generation import Translator
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.sizes import count_parameters
from smoe_mt.pruning.layout import layouts_of
from smoe_mt.pruning.plan import served
from tests.conftest import TrainedRun, train

D, FFN = 32, 64
EXPERT = 2 * D * FFN + D + FFN


def prune(run: Path, out: Path, *options: str) -> int:
    return cli.main(["checkpoint", "prune", str(run), str(out), "--device", "cpu", "--limit", "5", *options])


@pytest.fixture(scope="module")
def smaller(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strata of 2 and 2 experts, pruned to 1 and 2 in the encoder's block."""
    out = tmp_path_factory.mktemp("pruned") / "smaller.pt"
    assert prune(trained_run.folder, out, "--experts", "1,2;2,2") == 0
    return out


def test_the_number_of_parameters_is_the_promised_one_and_there_is_no_optimiser_state(
    trained_run: TrainedRun, smaller: Path
) -> None:
    before, after = (load_model(path, device="cpu").model for path in (trained_run.folder, smaller))
    assert (
        count_parameters(before)[0] - count_parameters(after)[0] == EXPERT + D
    )  # an expert, and its row in the first gate
    state = open_checkpoint(smaller)
    assert "last_optimizer_state" not in state and state["cfg"]["model"]["strata"] == "1,2;2,2"
    found = inspect_checkpoint(smaller)
    assert found["pruned_from"] == "checkpoint_best.pt" and found["uses"] == ["translate", "fine-tune"]


def test_it_translates_exports_and_is_analysed(smaller: Path, tmp_path: Path) -> None:
    lines = Translator.from_pretrained(smaller, device="cpu").translate(["gibe"], "aa", "en", max_len_a=0, max_len_b=5)
    assert cli.main(["export", str(smaller), str(tmp_path / "exported")]) == 0
    exported = Translator.from_pretrained(tmp_path / "exported", device="cpu")
    assert exported.translate(["gibe"], "aa", "en", max_len_a=0, max_len_b=5) == lines
    report = requested_capacity(load_model(smaller, device="cpu"), Request("test", limit=2), "smaller")
    assert [strata for strata in report.load.strata.values()] == [(1, 2), (2, 2)]


def test_what_was_done_stands_beside_it(smaller: Path, trained_run: TrainedRun) -> None:
    found = json.loads((smaller.parent / "smaller_groups.json").read_text())
    assert all((smaller.parent / f"smaller_similarity.{kind}").stat().st_size for kind in ("png", "svg", "pdf"))
    first, second = found["blocks"]["encoder.layers.1"]
    assert first["groups"] == [[1, 2]] and first["shares"] == [[0.5, 0.5]]
    assert second["groups"] == [[1], [2]] and second["similarity"][0][0] == 1.0
    assert found["before"]["parameters"] - found["after"]["parameters"] == EXPERT + D
    loaded = load_model(trained_run.folder, device="cpu")
    report = requested_capacity(loaded, Request("valid", limit=5), "run")
    for key, visits in found["before"]["visits"].items():
        assert visits == {str(block): report.visits.mean(block) for block in report.visits.blocks}[key]
    counts = served(report.load, layouts_of(loaded.model, "run")[0])
    assert [first["slots_served"], second["slots_served"]] == [each.tolist() for each in counts]


def test_as_many_experts_as_there_are_change_no_weight(trained_run: TrainedRun, tmp_path: Path) -> None:
    assert prune(trained_run.folder, tmp_path / "same.pt", "--experts", "2") == 0
    before, after = (
        open_checkpoint(path) for path in (trained_run.folder / "checkpoint_best.pt", tmp_path / "same.pt")
    )
    assert before["model"].keys() == after["model"].keys()
    assert all(weight.equal(after["model"][name]) for name, weight in before["model"].items())


@pytest.mark.parametrize("form", ["sharded", "exported"])
def test_other_forms_of_a_checkpoint_give_the_same_weights(
    trained_run: TrainedRun, smaller: Path, tmp_path: Path, form: str
) -> None:
    source = tmp_path / ("sharded.pt" if form == "sharded" else "exported")
    verb = ["checkpoint", "convert", "--sharded"] if form == "sharded" else ["export"]
    assert cli.main([*verb, str(trained_run.folder), str(source)]) == 0
    out = tmp_path / "out.pt"
    assert prune(source, out, "--experts", "1,2;2,2", "--data", str(trained_run.data)) == 0
    one, other = (open_checkpoint(path)["model"] for path in (smaller, out))
    assert all(weight.equal(other[name]) for name, weight in one.items())
    assert load_model(out, device="cpu").config.task.data == str(trained_run.data)


def counts_in(path: Path) -> dict[str, list[list[int]]]:
    blocks = json.loads(path.read_text())["blocks"]
    return {block: [each["slots_served"] for each in sets] for block, sets in blocks.items()}


def test_directions_restrict_what_is_counted_and_the_most_used_expert_remains(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    options = ["--experts", "1,2", "--by", "counts"]
    for name, directions in (("one", ["bb-en"]), ("other", ["en-aa"]), ("both", ["bb-en", "en-aa"])):
        assert prune(trained_run.folder, tmp_path / f"{name}.pt", *options, "--directions", *directions) == 0
    one, other, both = (counts_in(tmp_path / f"{name}_groups.json") for name in ("one", "other", "both"))
    for block, sets in both.items():
        for number, counts in enumerate(sets):
            assert counts == [a + b for a, b in zip(one[block][number], other[block][number], strict=True)]
    before, after = (
        open_checkpoint(path)["model"] for path in (trained_run.folder / "checkpoint_best.pt", tmp_path / "one.pt")
    )
    most = max((0, 1), key=lambda e: one["encoder.layers.1"][0][e])
    name = "encoder.layers.1.block.experts.w_in"
    assert after[name].equal(before[name][[most, 2, 3]])
    assert not (tmp_path / "one_similarity.png").exists()  # nothing was compared


@pytest.mark.parametrize(
    "options", [["--by", "weights", "--merge", "weighted"], ["--by", "surrogate", "--merge", "keep"]]
)
def test_other_rules(trained_run: TrainedRun, tmp_path: Path, options: list[str]) -> None:
    assert prune(trained_run.folder, tmp_path / "out.pt", "--experts", "1,2", *options) == 0
    assert open_checkpoint(tmp_path / "out.pt")["model"]["encoder.layers.1.block.experts.w_in"].size(0) == 3


def test_random_groups_are_those_of_their_seed(trained_run: TrainedRun, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", "7"), ("b", "7")):
        out = tmp_path / f"{name}.pt"
        assert prune(trained_run.folder, out, "--experts", "1,2", "--by", "random", "--seed", seed) == 0
        found.append(json.loads((tmp_path / f"{name}_groups.json").read_text())["blocks"])
    assert found[0] == found[1]


def test_gates_with_a_bias_load_and_translate(trained_run: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "biased.pt"
    assert prune(trained_run.folder, out, "--experts", "1,2", "--gate-bias") == 0
    state = open_checkpoint(out)
    bias = state["model"]["encoder.layers.1.block.gates.0.bias"]
    torch.testing.assert_close(bias, torch.tensor([2.0, 1.0, 1.0]).log())
    assert state["cfg"]["model"]["gate_bias"] is True
    assert (
        len(Translator.from_pretrained(out, device="cpu").translate(["gibe"], "aa", "en", max_len_a=0, max_len_b=5))
        == 1
    )


def test_a_pruned_checkpoint_in_the_run_folder_is_no_candidate_for_a_mean(
    tmp_path: Path, trained_run: TrainedRun
) -> None:
    out = tmp_path / "a.pt"
    assert prune(trained_run.folder, out, "--experts", "1,2") == 0
    assert checkpoints_of(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experts", "3"], "stratum 1 of encoder.layers.1 has 2 experts, so 3 cannot remain"),
        (["--experts", "1"], "--experts 1: encoder.layers.1: top_k=2 needs at least 2 experts to choose from"),
        (["--experts", "1,2", "--by", "counts", "--merge", "mean"], "--by counts makes no groups"),
        (["--experts", "1,2", "--split", "dev"], "unknown subset 'dev'"),
        (["--experts", "1,2", "--directions", "sv-fi"], "unknown direction 'sv-fi'"),
        (["--experts", "1,2", "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert prune(trained_run.folder, tmp_path / "out.pt", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("out", "message"), [("out.txt", "ends with .pt"), ("no/out.pt", "there is no folder")])
def test_an_output_that_cannot_be_is_refused(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    assert prune(trained_run.folder, tmp_path / out, "--experts", "1,2") == 2
    assert message in capsys.readouterr().err


def test_the_input_is_not_overwritten(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained_run.folder / "checkpoint_best.pt"
    before = path.read_bytes()
    assert prune(path, path, "--experts", "1,2") == 2
    assert "it is what is to be pruned" in capsys.readouterr().err and path.read_bytes() == before


@pytest.mark.parametrize(
    ("moe", "message"),
    [
        ("none", "runs/a: a dense model has no experts that could be merged"),
        ("mpoe", "runs/a: experts of --moe mpoe cannot be merged: their weights are made of parts that"),
    ],
)
def test_models_without_experts_that_could_be_merged(
    make_model: Callable[..., SMoETransformerModel], moe: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        layouts_of(make_model(moe=moe), "runs/a")


@pytest.mark.slow
def test_training_goes_on_from_a_pruned_model(trained_run: TrainedRun, smaller: Path, tmp_path: Path) -> None:
    options = ["--moe", "stratified", "--strata", "1,2;2,2", "--finetune-from-model", str(smaller)]
    train(trained_run.data, tmp_path / "run", *options, updates=2)
    before: Any = open_checkpoint(smaller)["model"]
    after: Any = open_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["model"]
    for name, weight in before.items():
        if "experts" in name or "gates" in name:
            assert (after[name] - weight).abs().max() < 0.05, name
