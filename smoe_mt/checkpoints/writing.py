"""Checkpoints that verbs write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smoe_mt.files import whole_file


def write(state: dict[str, Any], out: Path) -> None:
    """Save the checkpoint, whole or not at all. UserError where `out` cannot be written."""
    with whole_file(out) as temporary, open(temporary, "wb") as stream:
        torch.save(state, stream)
