"""What a study has made on a machine that is given back: weights, logs, scores and analyses, in archives of bounded size.

Unpacked into the runs folder of another machine, the study goes on there with evaluation; a training that was not over
cannot, as the optimiser's state stays behind.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch

from smoe_mt.checkpoints.edit.convert import converted
from smoe_mt.checkpoints.names import LAST
from smoe_mt.checkpoints.sharded import OPTIMISER
from smoe_mt.study.plan import Item
from smoe_mt.study.stages import SETTINGS, TRAINED

#: Of a run, beside its weights; figures are drawn again where they are wanted.
PLAIN = (SETTINGS, TRAINED, "*.log", "evaluation/**/*.json", "evaluation/**/*.tsv", "analysis/**/*.json")
PART = 15 << 20  # bytes of an archive


def pack(items: Sequence[Item], runs: Path, out: Path, part: int = PART) -> list[Path]:
    """Write `out`/part1.tar, part2.tar, ... with what each item has; returns them. A larger run has a part of its own."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[list[tuple[str, bytes]]] = [[]]
    for item in items:
        files = _files_of(item, runs)
        if parts[-1] and _size([*parts[-1], *files]) > part:
            parts.append([])
        parts[-1] += files
    written = []
    for number, files in enumerate(parts, start=1):
        path = out / f"part{number}.tar"
        with tarfile.open(path, "w") as archive:
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        written.append(path)
    return written


def _size(files: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(content) + 1024 for _, content in files) + 10240


def _files_of(item: Item, runs: Path) -> list[tuple[str, bytes]]:
    """(name below the runs folder, content) of what is to travel."""
    folder, below = item.folder(runs), f"{item.study}/{item.name}"
    plain = [path for pattern in PLAIN for path in sorted(folder.glob(pattern)) if path.is_file()]
    files = [(f"{below}/{path.relative_to(folder)}", path.read_bytes()) for path in plain]
    if (folder / LAST).is_file():
        state = converted(folder / LAST, None, None)
        stream = io.BytesIO()
        torch.save({key: value for key, value in state.items() if key != OPTIMISER}, stream)
        files.append((f"{below}/{LAST}", stream.getvalue()))
    return files
