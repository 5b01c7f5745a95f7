"""What several rooms' tests need: a tiny model, trained once, and a task without data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # Triton decides it as it is imported, which any test may cause
    os.environ.setdefault("TRITON_INTERPRET", "1")

from fairseq.data import Dictionary

from smoe_mt.models import SMoETransformerConfig, SMoETransformerModel
from smoe_mt.paths import user_dir
from smoe_mt.registration import register
from tests.toy import make_toy_folder

register()


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember goes to a folder of the tests, whose child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its data folder."""

    folder: Path
    data: Path


def train(data: Path, folder: Path, *options: str, updates: int = 60) -> None:
    """Train a tiny model through fairseq's own command line; a few seconds."""
    command = [sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", str(user_dir())]
    command += ["--task", "many_to_many_translation", "--arch", "smoe_transformer_tiny"]
    command += ["--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--dropout", "0.0"]
    command += ["--encoder-ffn-embed-dim", "64", "--decoder-ffn-embed-dim", "64"]
    command += ["--max-source-positions", "64", "--max-target-positions", "64"]
    command += ["--criterion", "stratified_routing", "--optimizer", "adam", "--lr", "0.01", "--lr-scheduler", "fixed"]
    command += ["--max-tokens", "500", "--max-update", str(updates), "--save-dir", str(folder), "--cpu"]
    command += ["--no-progress-bar", "--num-workers", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A stratified model that has learned a little."""
    home = tmp_path_factory.mktemp("trained")
    data = make_toy_folder(home / "data")
    train(data, home / "run", "--moe", "stratified", "--strata", "2,2")
    return TrainedRun(home / "run", data)


@pytest.fixture
def task() -> SimpleNamespace:
    """A task that offers no more than what a model and a criterion need."""
    dictionary = Dictionary()
    for i in range(20):
        dictionary.add_symbol(f"w{i}")
    return SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary, directions=("aa-en", "en-aa"))


@pytest.fixture
def make_model(task: SimpleNamespace) -> Callable[..., SMoETransformerModel]:
    def make(**settings: Any) -> SMoETransformerModel:
        sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2}
        cfg = SMoETransformerConfig(**{f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()})
        for name, value in settings.items():
            setattr(cfg, name, value)
        torch.manual_seed(1)
        return SMoETransformerModel.build_model(cfg, task)

    return make


@pytest.fixture(scope="session")
def toy_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy data folder to train on."""
    return make_toy_folder(tmp_path_factory.mktemp("toy-text") / "data", sizes={"train": 100, "valid": 12, "test": 9})
