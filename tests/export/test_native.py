"""An exported folder is the model, whole, anywhere; and what is not whole is not read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from smoe_mt import Translator, cli
from smoe_mt.checkpoints.names import PARTS
from smoe_mt.errors import UserError
from smoe_mt.export import folder as folder_module
from smoe_mt.export import native
from smoe_mt.export.folder import export
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.temporary_names import MARK
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def exported(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    export(load_model(trained_run.folder, device="cpu"), out, "toy", None, "fp32", native.FORMAT)
    return out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_translates_as_the_checkpoint_without_its_data(trained_run: TrainedRun, copy: Path) -> None:
    text = (trained_run.data / "text" / "test.bb-en.bb").read_text().splitlines()
    own, theirs = (Translator.from_pretrained(path, device="cpu") for path in (copy, trained_run.folder))
    assert own.translate(text, "bb", "en") == theirs.translate(text, "bb", "en")
    assert own.loaded.task.folder.path == copy
    assert own.loaded.updates == theirs.loaded.updates
    assert own.directions == theirs.directions


def test_weights_are_equal_and_tied_ones_are_stored_once(trained_run: TrainedRun, exported: Path) -> None:
    mine = load_model(exported, device="cpu").model
    state, expected = mine.state_dict(), load_model(trained_run.folder, device="cpu").model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert mine.encoder.embed_tokens.weight is mine.decoder.output_projection.weight
    with safe_open(exported / "model.safetensors", framework="pt") as stream:
        assert len([name for name in stream.keys() if "embed_tokens" in name or "output_projection" in name]) == 1  # noqa: SIM118


def test_no_path_of_the_training_travels(trained_run: TrainedRun, exported: Path) -> None:
    text = (exported / "config.json").read_text() + (exported / "README.md").read_text()
    assert str(trained_run.folder.parent) not in text


@pytest.mark.parametrize("part", [*PARTS, "config.json"])
def test_a_missing_file_is_named(copy: Path, part: str) -> None:
    (copy / part).unlink()
    with pytest.raises(UserError, match=f"{part} is missing"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("part", PARTS)
def test_an_altered_file_is_named(copy: Path, part: str) -> None:
    content = bytearray((copy / part).read_bytes())
    content[-1] ^= 1
    (copy / part).write_bytes(content)
    with pytest.raises(UserError, match=f"{part} is not the file that was exported"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config | {"smoe_mt_export": 99}, "of export format 99"),
        (lambda config: {"model_type": "other"}, "not written by `smoe-mt export`"),
        (lambda config: {key: value for key, value in config.items() if key != "files"}, "altered or incomplete"),
    ],
)
def test_another_config_is_refused(copy: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(change(config)))
    with pytest.raises(UserError, match=message):
        load_model(copy, device="cpu")


def test_evaluating_without_text_says_what_to_do(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(exported), "--device", "cpu"]) == 2
    assert "name the data folder with --data" in capsys.readouterr().err


def test_fp16_halves_the_weights(trained_run: TrainedRun, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    command = ["export", str(trained_run.folder), str(out), "--dtype", "fp16"]
    assert cli.main(command) == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (out, exported)]
    assert sizes[0] < 0.6 * sizes[1]
    assert next(load_model(out, device="cpu").model.parameters()).dtype is torch.float32


def test_a_place_that_is_taken(
    trained_run: TrainedRun, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "README.md").read_text()
    assert cli.main(["export", str(trained_run.folder), str(copy)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (copy / "README.md").read_text() == before
    assert cli.main(["export", str(trained_run.folder), str(copy), "--overwrite", "--licence", "CC-BY-4.0"]) == 0
    assert 'license: "cc-by-4.0"' in (copy / "README.md").read_text()
    assert cli.main(["export", str(trained_run.folder), str(trained_run.data), "--overwrite"]) == 2
    assert "no exported model" in capsys.readouterr().err


def test_a_failure_leaves_what_was_there(
    trained_run: TrainedRun, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = load_model(trained_run.folder, device="cpu")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "model_card", full_disk)
    for out in (copy, tmp_path / "new"):
        with pytest.raises(UserError, match="cannot be written .No space left"):
            export(loaded, out, "toy", None, "fp32", native.FORMAT)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert load_model(copy, device="cpu").updates == loaded.updates


def test_what_others_put_beside_a_model_stays(trained_run: TrainedRun, copy: Path) -> None:
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (copy / "notes.txt").write_text("mine")
    (copy / "README.md").write_text("my own card")
    assert cli.main(["export", str(trained_run.folder), str(copy), "--overwrite"]) == 0
    assert (copy / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert (copy / "notes.txt").read_text() == "mine"
    assert (copy / "README.md.earlier").read_text() == "my own card"
    assert cli.main(["export", str(trained_run.folder), str(copy), "--overwrite"]) == 0
    own, others = {"config.json", "README.md", *PARTS}, {".git", "notes.txt", "README.md.earlier"}
    assert {path.name for path in copy.iterdir()} - {"evaluation"} == own | others
    assert load_model(copy, device="cpu").updates == load_model(trained_run.folder, device="cpu").updates


def test_another_projects_model_is_not_replaced(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    assert cli.main(["export", str(trained_run.folder), str(tmp_path), "--overwrite"]) == 2
    assert "no exported model" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_text() == "{}"


def test_an_export_whose_folder_a_killed_one_had_moved_aside_comes_back(trained_run: TrainedRun, copy: Path) -> None:
    copy.rename(copy.with_name(f".copy.{MARK}-old-0123abcd"))
    assert cli.main(["export", str(trained_run.folder), str(copy)]) == 2  # is there already
    assert load_model(copy, device="cpu") and [path.name for path in copy.parent.iterdir()] == ["copy"]
