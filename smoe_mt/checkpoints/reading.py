"""How every part of the project reads a checkpoint: nothing in it can run, and a damaged one is a user's error.

A checkpoint is a file that ``torch.save`` wrote (loaded with torch's ``weights_only`` safety on), alone or with a folder of
tensors beside it (``sharded``), or the safetensors file of an exported folder.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from smoe_mt.checkpoints.exported import read_exported
from smoe_mt.checkpoints.schema import tied_tensors
from smoe_mt.checkpoints.sharded import MODEL, SHARDS, Shards, check_folder, fill
from smoe_mt.errors import UserError, first_sentence

BLOCK = 1 << 20
QUIET: dict[str, Any] = {"disable": None, "leave": False, "delay": 2.0}  # a bar for those who wait at a terminal


def allow_namespaces() -> None:
    """fairseq keeps an ``argparse.Namespace`` in its checkpoints, which torch refuses unless it is named."""
    torch.serialization.add_safe_globals([argparse.Namespace])


def open_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, settings as plain values; tensors stay on the disk until they are used.

    Those of a folder beside it are on the device "meta": `read_checkpoint` reads them. Raises UserError for a damaged file,
    and for one that is no checkpoint of fairseq's with its model.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        state = read_exported(path)
        return {**state, "cfg": OmegaConf.to_container(state["cfg"])}
    state = _mapped(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path}: not a checkpoint of fairseq's; give one that training wrote")
    return state


def _mapped(path: Path) -> Any:
    allow_namespaces()
    try:
        # What torch wrote before its version 1.6 is no zip archive, and cannot be mapped.
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # other bytes in a file make the unpickler raise nearly anything
        raise damaged(path, error) from error


def folder_named_by(path: Path) -> str | None:
    """The folder of tensors that a file of torch's names; None where it names none. UserError for a damaged file."""
    state = _mapped(path)
    shards = Shards.of(state, path) if isinstance(state, dict) else None
    return shards.folder if shards else None


def read_checkpoint(path: str | Path, parts: Sequence[str] = (MODEL,)) -> dict[str, Any]:
    """As `open_checkpoint`, after all bytes have been checked, with the tensors of these parts of it."""
    check_whole(path)
    state = open_checkpoint(path)
    fill(state, Path(path), parts)
    return state


def tied_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Names of weights that are another one's -> that one's name."""
    weights: dict[str, Tensor] = state["model"]
    if state.get(SHARDS):
        prefix = f"{MODEL}."
        tied: dict[str, str] = state[SHARDS]["tied"]
        return {
            name.removeprefix(prefix): kept.removeprefix(prefix)
            for name, kept in tied.items()
            if name.startswith(prefix)
        }
    return tied_tensors(weights)


def check_whole(path: str | Path) -> None:
    """Read all of a checkpoint once. UserError for one that is cut, or has a byte that is not what was written."""
    path = Path(path)
    state = open_checkpoint(path)  # of an exported folder this is all
    if path.suffix == ".safetensors":
        return
    shards = Shards.of(state, path)
    size = path.stat().st_size + (sum(one["bytes"] for one in shards.files.values()) if shards else 0)
    with tqdm(total=size, desc=f"checking {path.name}", unit="B", unit_scale=True, **QUIET) as progress:
        if zipfile.is_zipfile(path):
            try:
                _compare_check_sums(path, progress.update)  # torch writes them, but does not look at them
            except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
                raise damaged(path, error) from error
        if shards:
            check_folder(path, shards, progress.update)


def _compare_check_sums(path: Path, progress: Callable[[int], Any]) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                while block := stream.read(BLOCK):
                    progress(len(block))


def damaged(path: str | Path, error: Exception) -> UserError:
    """What to tell about a checkpoint that could not be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such checkpoint")
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            f"{path}: not loaded, for it is damaged or holds more than tensors and settings ({first_sentence(error)})"
        )
    return UserError(
        f"{path}: not a whole fairseq checkpoint ({first_sentence(error)}); it may be truncated, so take another one"
    )
