"""A model that is not here: asked of the hub only where it can be meant, and told in words where it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import find_checkpoint
from smoe_mt.generation.hub import looks_like_model_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("someone/nordic-smoe", True),
        ("nordic", False),
        ("someone/nordic/deeper", False),
        ("/someone/nordic", False),
        ("../nordic", False),
        ("someone/checkpoint_best.pt", False),
        ("here/nordic", False),
    ],
)
def test_what_can_be_an_id(text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert looks_like_model_id(text) is expected


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"someone/nordic: no such folder or checkpoint; .*pip install 'smoe_mt\[hub\]'"):
        find_checkpoint("someone/nordic")


def test_a_fetched_folder_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(model_id: str, allow_patterns: list[str]) -> str:
        asked.append((model_id, allow_patterns))
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert find_checkpoint("someone/nordic") == tmp_path / "model.safetensors"
    assert asked[0][0] == "someone/nordic"
    assert not any("*" in pattern or pattern.endswith((".py", ".pt", ".bin")) for pattern in asked[0][1])


def test_a_hub_that_does_not_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model_id: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("nobody answers\nsecond line")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match="did not give it .ConnectionError: nobody answers.$"):
        find_checkpoint("someone/nordic")
