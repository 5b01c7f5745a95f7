"""Imports without collections of garbage."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from smoe_mt.start_up import import_at_once


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of one that notes whether garbage is collected while it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_notes_collections.py").write_text("import gc\ncollected = gc.isenabled()\n")
    return "toy_notes_collections"


@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_collected_meanwhile_and_all_is_as_it_was_afterwards(module: str, before: bool) -> None:
    (gc.enable if before else gc.disable)()
    try:
        assert not import_at_once(module).collected
        assert gc.isenabled() is before
    finally:
        gc.enable()
        gc.unfreeze()
        del sys.modules[module]


def test_a_failed_import_leaves_collections_on() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_at_once("toy_that_is_not_there")
    gc.unfreeze()
    assert gc.isenabled()
