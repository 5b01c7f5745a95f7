"""Checkpoints that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smoe_mt.checkpoints.schema import updates_of
from smoe_mt.checkpoints.sharded import SHARDS, Shards, free_folder, split, write_tensors
from smoe_mt.errors import reason_of
from smoe_mt.files import CannotWrite, atomic_file, output_file


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
