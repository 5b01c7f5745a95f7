"""The mean of checkpoints: of which, how it is computed, and that it is a checkpoint like any other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt import cli
from smoe_mt.checkpoints.edit.average import average, check_alike, choose, summarise
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.errors import UserError
from smoe_mt.generation import Translator
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.paths import user_dir
from tests.conftest import TrainedRun
from tests.toy import smallest_settings


def save(path: Path, updates: int, loss: float | None = None, value: float = 0.0, **changes: Any) -> Path:
    """A small checkpoint of fairseq's form, whose weights are all `value`; its second weight is tied to its first."""
    embedding = torch.full((4, 2), value, dtype=changes.get("dtype", torch.float32))
    model = {"embed": embedding, "project": embedding, "bias": torch.full((changes.get("bias", 3),), value)}
    model["norm"] = torch.full((8,), value)
    model["steps"] = torch.tensor([updates])
    settings = {"moe": "stratified", "strata": "2,2", "top_k": 2, "variant": "paper", "activation_fn": "relu"}
    smallest = smallest_settings()
    vocabulary = sha256(changes.get("vocabulary", "same").encode()).hexdigest()
    state = {
        "cfg": {
            **smallest,
            "model": smallest["model"] | settings | changes.get("settings", {}),
            "checkpoint": {"maximize_best_checkpoint_metric": changes.get("maximize", False)},
        },
        "args": None,
        "model": model,
        "optimizer_history": [{"num_updates": updates}],
        "task_state": {"vocabulary": {"size": 4, "sha256": vocabulary, "folder": "data"}},
        "extra_state": {"val_loss": loss, "train_iterator": {"epoch": 2}},
        "last_optimizer_state": {"state": torch.zeros(100)},
    }
    torch.save(state, path)
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for updates, loss in ((10, 4.0), (20, 3.0), (30, 3.5), (40, None)):
        save(folder / f"checkpoint_1_{updates}.pt", updates, loss, float(updates))
    shutil.copy(folder / "checkpoint_1_20.pt", folder / "checkpoint_best.pt")
    shutil.copy(folder / "checkpoint_1_40.pt", folder / "checkpoint_last.pt")
    return folder


def test_the_last_are_those_with_most_updates_each_once(run_folder: Path) -> None:
    assert [one.updates for one in choose([str(run_folder)], last=3, best=None)] == [20, 30, 40]


def test_the_best_have_the_lowest_validation_loss(run_folder: Path) -> None:
    assert [one.updates for one in choose([str(run_folder)], last=None, best=2)] == [20, 30]


def test_a_run_that_maximises_its_metric(run_folder: Path) -> None:
    for updates, bleu in ((10, 40.0), (20, 30.0), (30, 35.0)):
        save(run_folder / f"checkpoint_1_{updates}.pt", updates, bleu, maximize=True)
    (run_folder / "checkpoint_best.pt").unlink()
    assert [one.updates for one in choose([str(run_folder)], last=None, best=2)] == [10, 30]


def test_an_earlier_mean_is_no_candidate(run_folder: Path) -> None:
    for _ in range(2):
        assert cli.main(["average", str(run_folder), "--last", "2", "--out", str(run_folder / "mean.pt")]) == 0
        mean = open_checkpoint(run_folder / "mean.pt")
        assert mean["model"]["bias"].tolist() == [35.0] * 3


@pytest.mark.parametrize(
    ("models", "last", "best", "message"),
    [
        (["run"], 5, None, "run has 4 checkpoints of different updates, and 5"),
        (["run"], None, 4, "run has 3 checkpoints of different updates with a validation loss, and 4"),
        (["run", "run"], 1, None, "from one run folder"),
        (["run/checkpoint_best.pt"], 1, None, "from one run folder"),
        (["run"], None, None, "one model has no mean"),
    ],
)
def test_what_cannot_be_chosen(
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    models: list[str],
    last: int | None,
    best: int | None,
    message: str,
) -> None:
    monkeypatch.chdir(run_folder.parent)
    with pytest.raises(UserError, match=message):
        choose(models, last, best)


def test_one_checkpoint_is_counted_in_the_singular(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint_1_10.pt", 10, 4.0)
    with pytest.raises(UserError, match="has 1 checkpoint of different updates, and 2 are"):
        choose([str(tmp_path)], last=2, best=None)


def test_mean_ties_types_and_what_is_left_out(tmp_path: Path) -> None:
    values = [0.1, 0.2, 0.7]
    chosen = [summarise(save(tmp_path / f"{i}.pt", i, 1.0, value)) for i, value in enumerate(values)]
    state = average(chosen)
    expected = sum(torch.tensor(values, dtype=torch.float32).double()) / 3
    assert torch.equal(state["model"]["embed"], torch.full((4, 2), float(expected), dtype=torch.float32))
    assert state["model"]["embed"].data_ptr() == state["model"]["project"].data_ptr()
    assert state["model"]["steps"].tolist() == [2]
    assert "last_optimizer_state" not in state
    assert state["extra_state"] == {
        "val_loss": None,
        "averaged": ["0.pt", "1.pt", "2.pt"],
        "train_iterator": {"epoch": 2},
    }


def test_half_precision_is_summed_in_full(tmp_path: Path) -> None:
    """In float16 the sum of 40,000 and 40,000 would be infinite."""
    chosen = [summarise(save(tmp_path / f"{i}.pt", i, value=40_000.0, dtype=torch.float16)) for i in range(2)]
    found = average(chosen)["model"]["embed"]
    assert found.dtype is torch.float16 and found.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": 4}, r"b.pt cannot be averaged: bias is \(3,\) in the first and \(4,\) in the second"),
        ({"vocabulary": "other"}, "their vocabularies differ"),
        ({"settings": {"variant": "release"}}, "variant is paper in the first and release in the second"),
        ({"settings": {"second_choice": "gumbel"}}, "second_choice is argmax in the first and gumbel in the second"),
        ({"settings": {"eom_p": 0.1}}, "eom_p is 0.0 in the first and 0.1 in the second"),
        ({"settings": {"moe": "stacking"}}, "moe is stratified in the first and stacking in the second"),
    ],
)
def test_models_that_are_not_alike(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    one, other = save(tmp_path / "a.pt", 1), save(tmp_path / "b.pt", 2, **change)
    with pytest.raises(UserError, match=message) as raised:
        check_alike([summarise(one), summarise(other)])
    assert "\n" not in str(raised.value)


def test_strata_as_text_and_as_a_list_are_alike(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.pt", 1), save(tmp_path / "b.pt", 2, settings={"strata": [2, 2]})
    check_alike([summarise(one), summarise(other)])


def test_settings_that_a_system_does_not_read_may_differ(tmp_path: Path) -> None:
    settings = {"num_experts": 3, "capacity_factor": 1.0, "xmoe_threshold": 0.5, "eom_p": None}
    one, other = save(tmp_path / "a.pt", 1), save(tmp_path / "b.pt", 2, settings=settings)
    check_alike([summarise(one), summarise(other)])


def test_the_default_of_eom_is_compared_as_what_it_stands_for(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.pt", i, settings={"moe": "eom", "eom_p": p}) for i, p in enumerate((None, 0.1, 0.2))]
    summaries = [summarise(path) for path in paths]
    check_alike(summaries[:2])
    with pytest.raises(UserError, match="eom_p is 0.1 in the first and 0.2 in the second"):
        check_alike(summaries)


def test_options_of_a_system_are_compared(tmp_path: Path) -> None:
    kinds = [{"moe": "xmoe"}, {"moe": "xmoe", "xmoe_threshold": 0.9}, {"moe": "xmoe", "xmoe_threshold": 0.5}]
    summaries = [summarise(save(tmp_path / f"{i}.pt", i, settings=kind)) for i, kind in enumerate(kinds)]
    check_alike(summaries[:2])
    with pytest.raises(UserError, match="xmoe_threshold is 0.9 in the first and 0.5 in the second"):
        check_alike(summaries)


def test_a_damaged_one_is_named(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder / "checkpoint_1_30.pt"
    path.write_bytes(path.read_bytes()[:200])
    assert cli.main(["average", str(run_folder), "--last", "2", "--out", str(run_folder / "mean.pt")]) == 2
    assert "checkpoint_1_30.pt: not" in capsys.readouterr().err
    assert not (run_folder / "mean.pt").exists()


def test_a_full_disk_leaves_what_was_there(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_folder / "mean.pt").write_bytes(b"earlier")
    command = ["average", *(str(run_folder / f"checkpoint_1_{n}.pt") for n in (10, 20)), "--out"]
    before = sorted(run_folder.iterdir())

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    assert cli.main([*command, str(run_folder / "mean.pt")]) == 2
    assert (run_folder / "mean.pt").read_bytes() == b"earlier"
    assert sorted(run_folder.iterdir()) == before


def test_an_input_is_not_overwritten(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(run_folder / f"checkpoint_1_{n}.pt") for n in (10, 20)]
    assert cli.main(["average", *files, "--out", files[0]]) == 2
    assert "one of the checkpoints to average" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shifted(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with every weight a little larger, ties kept, at a later update."""
    state = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    for tensor in {tensor.data_ptr(): tensor for tensor in state["model"].values()}.values():
        tensor += 0.01
    state["optimizer_history"][-1]["num_updates"] += 1
    path = tmp_path_factory.mktemp("shifted") / "checkpoint_later.pt"
    torch.save(state, path)
    return path


def test_mean_of_a_checkpoint_and_an_exported_folder(trained_run: TrainedRun, shifted: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(shifted), str(tmp_path / "exported")]) == 0
    models = [str(trained_run.folder), str(tmp_path / "exported")]
    assert cli.main(["average", *models, "--out", str(tmp_path / "mean.pt")]) == 0
    mean, one, other = (load_model(path, device="cpu").model for path in (tmp_path / "mean.pt", *models))
    for name, tensor in mean.state_dict().items():
        expected = (one.state_dict()[name] + other.state_dict()[name]) / 2
        assert torch.allclose(tensor, expected, atol=1e-6), name


def test_the_mean_of_sharded_checkpoints(trained_run: TrainedRun, shifted: Path, tmp_path: Path) -> None:
    """Is that of the same checkpoints in one file each."""
    files = [trained_run.folder / "checkpoint_best.pt", shifted]
    sharded = [tmp_path / f"{number}" / "sharded.pt" for number in range(2)]
    for file, target in zip(files, sharded):
        target.parent.mkdir()
        assert cli.main(["checkpoint", "convert", str(file), str(target), "--sharded"]) == 0
        assert target.stat().st_size < file.stat().st_size / 4
    for name, parts in (("one.pt", files), ("other.pt", sharded)):
        assert cli.main(["checkpoint", "average", *map(str, parts), "--out", str(tmp_path / name)]) == 0
    one, other = (open_checkpoint(tmp_path / name)["model"] for name in ("one.pt", "other.pt"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_fairseq_generate_reads_the_mean(trained_run: TrainedRun, shifted: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean.pt"
    assert cli.main(["average", str(trained_run.folder), str(shifted), "--out", str(out)]) == 0
    command = [sys.executable, "-m", "fairseq_cli.generate", str(trained_run.data), "--user-dir", str(user_dir())]
    command += [
        "--task",
        "many_to_many_translation",
        "-s",
        "aa",
        "-t",
        "en",
        "--path",
        str(out),
        "--cpu",
        "--beam",
        "2",
    ]
    command += ["--gen-subset", "test", "--remove-bpe", "sentencepiece", "--max-len-b", "12"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    texts = {}
    for line in done.stdout.splitlines():
        if line.startswith("D-"):
            number, _, text = line.split("\t")
            texts[int(number[2:])] = text
    sources = (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()
    own = Translator.from_pretrained(out, device="cpu").translate(
        sources, "aa", "en", beam=2, max_len_a=0, max_len_b=12
    )
    assert len(texts) == len(sources)
    assert sum(texts[i] == text for i, text in enumerate(own)) >= len(own) - 1  # a tie may fall either way
