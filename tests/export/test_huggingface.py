"""The folder for transformers: what is in it, without transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smoe_mt import Translator, cli
from smoe_mt.checkpoints.names import OTHER_PARTS, PARTS
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def folder(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("huggingface") / "toy"
    assert cli.main(["export", str(trained_run.folder), str(out), "--format", "huggingface"]) == 0
    return out


def test_holds_what_both_programs_read(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "README.md", *PARTS, "tokenizer_config.json", "generation_config.json"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "smoe_mt" and config["dtype"] == "float32" and config["moe"] == "stratified"
    assert config["smoe_mt"]["tied"].keys() == {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}


def test_is_read_by_smoe_mt(trained_run: TrainedRun, folder: Path) -> None:
    own, theirs = (load_model(path, device="cpu").model.state_dict() for path in (folder, trained_run.folder))
    assert own.keys() == theirs.keys() and all(bool((own[name] == theirs[name]).all()) for name in own)


@pytest.mark.parametrize("form", ["smoe-mt", "huggingface"])
def test_one_format_replaces_the_other_and_leaves_nothing(trained_run: TrainedRun, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    for each in ("huggingface", form):
        (out / "notes.txt").write_text("mine") if out.exists() else None
        assert cli.main(["export", str(trained_run.folder), str(out), "--format", each, "--overwrite"]) == 0
    names = {path.name for path in out.iterdir()}
    assert "notes.txt" in names and names.isdisjoint(OTHER_PARTS) == (form == "smoe-mt")
    assert Translator.from_pretrained(out, device="cpu").languages == ("aa", "bb", "en")


def test_the_cards_example_runs(folder: Path, trained_run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", minversion="5")
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    ours = Translator.from_pretrained(trained_run.folder, device="cpu")
    line = ours.loaded.task.folder.references("test", "aa-en", side="source")[0]
    exec(example.replace('folder = "."', f"folder = {str(folder)!r}").replace('"..."', repr(line)), {})  # noqa: S102  # our own card
    assert capsys.readouterr().out.strip() == repr(ours.translate([line], "aa", "en"))
