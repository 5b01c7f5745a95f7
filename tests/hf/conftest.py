"""A trained toy model as a folder for transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smoe_mt import Translator
from smoe_mt.export import huggingface
from smoe_mt.export.folder import export
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun


@pytest.fixture(scope="session")
def folder(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `export --format huggingface` makes of the toy run."""
    out = tmp_path_factory.mktemp("huggingface") / "toy"
    export(load_model(trained_run.folder, device="cpu"), out, "toy", None, "fp32", huggingface.FORMAT)
    return out


@pytest.fixture(scope="session")
def ours(trained_run: TrainedRun) -> Translator:
    """The toy run's own translator."""
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="session")
def sentences(ours: Translator) -> list[str]:
    """Of different lengths, in aa."""
    found: list[str] = ours.loaded.task.folder.references("test", "aa-en", side="source")
    return found


@pytest.fixture(scope="session")
def loaded() -> Callable[..., tuple[Any, Any]]:
    """The model and the tokenizer of a folder."""

    def load(folder: Path, **languages: str) -> tuple[Any, Any]:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        import smoe_mt.hf  # noqa: F401

        return (
            AutoModelForSeq2SeqLM.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder, **(languages or {"src_lang": "aa", "tgt_lang": "en"})),
        )

    return load
