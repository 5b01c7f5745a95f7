"""COMET (Rei et al. 2020, arXiv 2009.09025; 2022): a neural model that rates a translation beside its source and a reference.

The package `unbabel-comet` (the extra "comet") and one of its models are needed, and neither is loaded unless the metric is asked
for. The model must lie on the disk: scoring starts no download, of the tokenizer neither, which COMET takes from the cache of
Hugging Face.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from smoe_mt.checksums import sha256_file
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.evaluation.metrics.base import Corpus, Metric, Score

MODEL = "SMOE_MT_COMET"  # in the environment: the folder of a model as COMET saves it, or its .ckpt file
CHECKPOINT = Path("checkpoints", "model.ckpt")
SETTINGS = "hparams.yaml"
BATCH = 16  # sentences
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check() -> None:
    """UserError, saying what to do, where the package or the model is not there."""
    _loader()
    _checkpoint()


def compute(corpus: Corpus) -> Score:
    """Mean over the sentences; most models rate from 0 to 1."""
    import torch

    path = _checkpoint()
    texts = zip(corpus.sources, corpus.hypotheses, corpus.references, strict=True)
    samples = [{"src": source, "mt": hypothesis, "ref": reference} for source, hypothesis, reference in texts]
    found = _load(path).predict(samples, batch_size=BATCH, gpus=int(torch.cuda.is_available()), progress_bar=False)
    return Score(float(found.system_score), _signature(path))


def _checkpoint() -> Path:
    named = os.environ.get(MODEL, "")
    if not named:
        raise UserError(
            f"comet needs a model on the disk: set {MODEL} in the environment to its folder, the one that holds {SETTINGS} "
            f"and {CHECKPOINT} (`comet-score --model NAME` fetches one where there is a network)"
        )
    path = Path(named).expanduser()
    path = path / CHECKPOINT if path.is_dir() else path
    for needed in (path, path.parent.parent / SETTINGS):
        if not needed.is_file():
            raise UserError(f"{MODEL}={named}: no model of COMET, {needed} is not there; name the folder that holds it")
    return path


@lru_cache(maxsize=1)
def _loader() -> Callable[..., Any]:
    for name in OFFLINE:
        os.environ.setdefault(name, "1")  # read as the libraries are imported
    try:
        from comet import load_from_checkpoint
    except ImportError as error:
        raise UserError("comet needs the package unbabel-comet: pip install 'smoe_mt[comet]'") from error
    found: Callable[..., Any] = load_from_checkpoint
    return found


@lru_cache(maxsize=1)
def _load(path: Path) -> Any:
    try:
        return _loader()(str(path), local_files_only=True)
    except Exception as error:  # torch, transformers and yaml have theirs
        raise UserError(
            f"{path}: COMET cannot load it ({first_sentence(error)}); the tokenizer and the configuration of the encoder that "
            f"{path.parent.parent / SETTINGS} names must be in the cache of Hugging Face too"
        ) from error


@lru_cache(maxsize=1)
def _signature(path: Path) -> str:
    return f"COMET:{metadata.version('unbabel-comet')}|model:{_name(path.parent.parent)}|sha256:{sha256_file(path)[:8]}"


def _name(folder: Path) -> str:
    """Of a folder in the cache of Hugging Face, models--OWNER--NAME/snapshots/HASH, the model's."""
    return folder.parent.parent.name if folder.parent.name == "snapshots" else folder.name


METRIC = Metric(
    "comet",
    "COMET",
    "mean rating of the outputs by a model of COMET, given source and reference",
    3,
    compute,
    check,
    optional=True,
    in_one_process=True,
)
