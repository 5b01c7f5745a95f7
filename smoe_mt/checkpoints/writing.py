"""Checkpoints that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smoe_mt.checkpoints.schema import updates_of
from smoe_mt.checkpoints.sharded import SHARDS, Shards, free_folder, split, write_tensors
from smoe_mt.errors import UserError, reason_of
from smoe_mt.files import CannotWrite, atomic_file, output_file


def check_output(out: Path, advice: str = "") -> None:
    """UserError unless a checkpoint can be written there, under a name that is one; `advice` follows what to do about the name."""
    if out.suffix != ".pt":
        raise UserError(f"{out}: give a name that ends with .pt{advice}")
    output_file(out)


def check_is_another(out: Path, read: Path, what: str) -> None:
    """UserError where `out` is the file that is read; `what`: what it is read for."""
    if out.exists() and out.samefile(read):
        raise UserError(f"{out}: it is {what}; give another name")


def write(state: dict[str, Any], out: Path) -> int:
    """Save the checkpoint, whole or not at all; returns its bytes. UserError where `out` cannot be written.

    A link is followed; pipes and devices are refused, as a checkpoint is not written from the first byte to the last.
    """
    with atomic_file(output_file(out)) as stream:
        torch.save(state, stream)
    return out.stat().st_size


def write_sharded(state: dict[str, Any], out: Path) -> int:
    """The same with the tensors in a folder next to `out`."""
    out = output_file(out)
    skeleton, tensors, tied = split(state)
    folder = free_folder(out.parent, updates_of(state))
    try:
        files = write_tensors(folder, tensors)
    except OSError as error:
        raise CannotWrite(str(folder), error.errno, reason_of(error)) from error
    own = write({**skeleton, SHARDS: Shards(folder.name, files, tied).state()}, out)
    return own + sum(one["bytes"] for one in files.values())
