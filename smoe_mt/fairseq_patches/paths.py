"""A path with a colon in it is one path, where there is such a file or folder; fairseq takes it for several."""

from __future__ import annotations

import os
from functools import wraps
from typing import Any

from smoe_mt.fairseq_patches.patch import Patch


def split_paths(original: Any) -> Any:
    """Splits as fairseq does, unless the whole is there."""

    @wraps(original)
    def split(paths: str, separator: str = os.pathsep) -> list[str]:
        return [paths] if os.path.exists(paths) else list(original(paths, separator))

    return split


PATCHES = (
    Patch(
        "fairseq.utils.split_paths",
        split_paths,
        "data folders and checkpoints may have a colon in their paths",
        ("paths", "separator"),
    ),
)
