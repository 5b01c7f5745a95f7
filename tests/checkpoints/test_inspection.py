"""What `smoe-mt checkpoint inspect` says of a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt import cli
from smoe_mt.checkpoints.inspection import inspect_checkpoint
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def found(trained_run: TrainedRun) -> dict[str, Any]:
    return inspect_checkpoint(trained_run.folder / "checkpoint_last.pt", with_weights=True)


def test_updates_loss_and_uses(found: dict[str, Any]) -> None:
    assert (found["updates"], found["form"], found["damage"]) == (60, "one file", None)
    assert found["uses"] == ["resume", "translate", "fine-tune"]
    assert 0 < found["validation_loss"] < 10 and found["epoch"] >= 1


def test_parameters_are_those_of_the_model(found: dict[str, Any], trained_run: TrainedRun) -> None:
    model = load_model(trained_run.folder, device="cpu").model
    parameters = dict(model.named_parameters())
    blocks = {
        layer: sum(p.numel() for name, p in parameters.items() if name.startswith(f"{layer}.block."))
        for layer in ("encoder.layers.1", "decoder.layers.1")
    }
    assert found["parameters"] == {
        "total": sum(parameter.numel() for parameter in parameters.values()),
        "experts": sum(p.numel() for name, p in parameters.items() if ".experts." in name),
        "blocks": blocks,
    }


def test_settings_precision_vocabulary_and_weights(found: dict[str, Any]) -> None:
    assert found["model"]["strata"] == "2,2" and "num_experts" not in found["model"]
    assert found["precision"] == {"float32": len(found["weights"])}
    assert len(found["vocabulary"]["sha256"]) == 64
    assert ["encoder.layers.1.block.gates.1.weight", [2, 32], "float32"] in found["weights"]


def test_text_and_json_say_the_same(trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoint", "inspect", str(trained_run.folder)]) == 0
    text = capsys.readouterr().out
    assert cli.main(["checkpoint", "inspect", str(trained_run.folder), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['parameters']['total']:,}" in text and found["vocabulary"]["sha256"] in text


def test_a_checkpoint_without_optimiser_is_not_to_resume_from(trained_run: TrainedRun, tmp_path: Path) -> None:
    state = torch.load(trained_run.folder / "checkpoint_last.pt", weights_only=True)
    del state["last_optimizer_state"]
    torch.save(state, tmp_path / "small.pt")
    assert inspect_checkpoint(tmp_path / "small.pt")["uses"] == ["translate", "fine-tune"]


def test_an_exported_folder(trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(trained_run.folder), str(tmp_path / "exported"), "--dtype", "fp16"]) == 0
    capsys.readouterr()
    assert cli.main(["checkpoint", "inspect", str(tmp_path / "exported"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["form"] == "exported folder" and found["uses"] == ["translate", "fine-tune"]
    assert found["precision"]["float16"] > 90


def test_a_flipped_byte_is_told_beside_what_could_be_read(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(trained_run.folder / "checkpoint_last.pt", tmp_path))
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["encoder.layers.0.fc1.weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 1
    path.write_bytes(content)
    assert cli.main(["checkpoint", "inspect", str(path), "--format", "json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["damage"] in captured.err
    assert "not a whole fairseq checkpoint" in captured.err


def test_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert cli.main(["checkpoint", "inspect", str(tmp_path / "list.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
