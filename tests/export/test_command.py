"""What `smoe-mt export` refuses before it loads a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt import cli
from tests.conftest import TrainedRun


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onnx"], "argument --format: invalid choice: 'onnx'"),
        (["--dtype", "int8"], "--dtype int8 goes with --format ctranslate2 alone"),
        (["--dtype", "int8", "--format", "huggingface"], "--dtype int8 goes with --format ctranslate2 alone"),
        (["--push", "toy"], "--push toy: give the repository as OWNER/NAME"),
    ],
)
def test_options_that_make_no_sense(
    trained_run: TrainedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("smoe_mt.export.command.load_model", lambda *_: pytest.fail("loaded"))
    assert cli.main(["export", str(trained_run.folder), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("form", ["smoe-mt", "huggingface", "ctranslate2"])
def test_a_place_that_is_not_ours(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "smoe_mt": 3}')
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file"):
        assert cli.main(["export", str(trained_run.folder), str(out), "--format", form, "--overwrite"]) == 2
        error = capsys.readouterr().err
        assert "is there already and is no exported model" in error and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "file"}
