"""A toy data folder, and the task on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from tests.toy import make_toy_folder

SIZES: dict[str, int | dict[str, int]] = {"train": {"aa": 150, "bb": 40}, "valid": 12, "test": {"aa": 9}}


@pytest.fixture(scope="session")
def toy_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("toy") / "data", sizes=SIZES)


@pytest.fixture
def toy(toy_master: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(toy_master, tmp_path / "data"))


@pytest.fixture
def make_task(toy_master: Path) -> Callable[..., ManyToManyTranslationTask]:
    """The task on the toy folder, with options as keyword arguments."""

    def make(**options: Any) -> ManyToManyTranslationTask:
        settings = {"data": str(toy_master), "seed": 1, "train_subset": "train", **options}
        return ManyToManyTranslationTask.setup_task(ManyToManyTranslationConfig(**settings))

    return make
