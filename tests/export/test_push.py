"""Uploading to a hub: what is sent, and what is said when it refuses. The hub is a fake."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smoe_mt import cli
from smoe_mt.checkpoints.names import PARTS
from smoe_mt.errors import UserError
from smoe_mt.export.push import check
from tests.conftest import TrainedRun


class Hub:
    """Remembers what it is asked for; `error`: how it refuses an upload."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        return f"https://hub.example/{name}"

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append(("upload", options))


def use(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Hub:
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: hub))
    return hub


@pytest.mark.parametrize("form", ["smoe-mt", "huggingface"])
def test_uploads_what_was_written_and_nothing_else(
    trained_run: TrainedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    hub, out = use(monkeypatch, Hub()), tmp_path / "out"
    out.mkdir()
    command = ["export", str(trained_run.folder), str(out), "--format", form, "--push", "someone/toy"]
    assert cli.main(command) == 0
    assert "https://hub.example/someone/toy" in capsys.readouterr().out
    (name, made), (_, sent) = hub.asked
    assert (name, made["private"], made["exist_ok"]) == ("someone/toy", True, True)
    assert (sent["repo_id"], sent["folder_path"]) == ("someone/toy", str(out))
    assert {"config.json", "README.md", *PARTS} <= set(sent["allow_patterns"]) == {path.name for path in out.iterdir()}


def test_a_refusal_is_one_line_and_leaves_the_folder(
    trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Hub(PermissionError("401 Client Error.\nInvalid username or password.")))
    out = tmp_path / "out"
    assert cli.main(["export", str(trained_run.folder), str(out), "--push", "someone/toy"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the hub did not take it as someone/toy (PermissionError: 401 Client" in error
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["toy", "a/b/c", "../toy", "some one/toy", ""])
def test_a_name_that_no_repository_has_is_told_first(name: str) -> None:
    with pytest.raises(UserError, match="give the repository as OWNER/NAME"):
        check(name)


def test_without_the_client_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"--push: pip install 'smoe_mt\[hub\]' first"):
        check("someone/toy")
