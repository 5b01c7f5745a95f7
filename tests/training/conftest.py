"""A toy data folder to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy import make_toy_folder


@pytest.fixture(scope="session")
def toy_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("toy-text") / "data", sizes={"train": 100, "valid": 12, "test": 9})
