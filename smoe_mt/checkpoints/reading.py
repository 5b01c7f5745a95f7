"""How every part of the project reads a checkpoint: no code is run, and a damaged file is reported in one line.

A checkpoint is a file that ``torch.save`` wrote (loaded with torch's ``weights_only`` safety on), alone or with a folder of
tensors next to it (``sharded``), or the safetensors file of an exported folder.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoe_mt.checkpoints.archive import check_archive, compare_check_sums, is_archive
from smoe_mt.checkpoints.checked import checked_state
from smoe_mt.checkpoints.exported import read_exported
from smoe_mt.checkpoints.schema import tied_tensors
from smoe_mt.checkpoints.sharded import MODEL, SHARDS, Shards, check_folder, fill
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.progress import bytes_bar


def allow_namespaces() -> None:
    """fairseq keeps an ``argparse.Namespace`` in its checkpoints, which torch refuses unless it is named."""
    torch.serialization.add_safe_globals([argparse.Namespace])


def open_checkpoint(path: str | Path, foreign: bool = False, mapped: bool = True) -> dict[str, Any]:
    """What a checkpoint holds, checked (`checked_state`); tensors stay on the disk until they are used, if `mapped`.

    Those of a folder next to it are on the device "meta": `read_checkpoint` reads them. `foreign`: also of fairseq's
    transformer. Raises UserError for a damaged file, and for one that is no checkpoint of smoe_mt.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return checked_state(read_exported(path), path)
    return checked_state(_unpickled(path, mapped), path, foreign)


def _unpickled(path: Path, mapped: bool = True) -> Any:
    allow_namespaces()
    try:
        # What torch wrote before its version 1.6 is no zip archive, and cannot be mapped.
        archived = is_archive(path)
        if archived:
            check_archive(path)
        state = torch.load(path, map_location="cpu", mmap=archived and mapped, weights_only=True)
        _check_tensors(state)
        return state
    except UserError:
        raise
    except Exception as error:  # other bytes in a file make the unpickler raise nearly anything
        raise damaged(path, error) from error


def _check_tensors(state: Any) -> None:
    """ValueError for a tensor that claims more elements than it has in the file: a copy of it could fill the memory."""
    elsewhere = isinstance(state, dict) and state.get(SHARDS) is not None
    waiting, seen = [state], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized or (value.is_meta and not elsewhere):
                raise ValueError(f"it holds a tensor of another kind than weights are: {tuple(value.shape)}")
            if not value.is_meta and value.nbytes > value.untyped_storage().nbytes():
                raise ValueError(f"it holds a tensor without all of its elements: {tuple(value.shape)}")


def folder_named_by(path: Path) -> str | None:
    """The folder of tensors that a file of torch's names; None where it names none. UserError for a damaged file."""
    state = _unpickled(path)
    shards = Shards.of(state, path) if isinstance(state, dict) else None
    return shards.folder if shards else None


def read_checkpoint(path: str | Path, parts: Sequence[str] = (MODEL,), foreign: bool = False) -> dict[str, Any]:
    """As `open_checkpoint`, after all bytes have been checked, with the tensors of these parts of it."""
    check_whole(path)
    state = open_checkpoint(path, foreign)
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
    if path.suffix == ".safetensors":
        read_exported(path)
        return
    state = _unpickled(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of fairseq's; give one that training wrote")
    shards = Shards.of(state, path)
    size = path.stat().st_size + (sum(one["bytes"] for one in shards.files.values()) if shards else 0)
    with bytes_bar(size, f"checking {path.name}") as progress:
        if is_archive(path):
            try:
                compare_check_sums(path, progress.update)  # torch writes them, but does not look at them
            except Exception as error:  # other bytes in a header make zipfile raise nearly anything
                raise damaged(path, error) from error
        if shards:
            check_folder(path, shards, progress.update)


def damaged(path: str | Path, error: Exception) -> UserError:
    """What to tell about a checkpoint that could not be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such checkpoint")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"{path}: cannot be read ({error.strerror})")
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            f"{path}: not loaded, for it is damaged or holds more than tensors and settings ({first_sentence(error)})"
        )
    return UserError(
        f"{path}: not a whole fairseq checkpoint ({first_sentence(error)}); it may be truncated, so take another one"
    )
