"""The files of a model of the paper's released code, put together: experts lie in a file for each rank of its training.

No such file was at hand: that there is one `NAME-shared.pt` and `NAME-rank-{r}.pt` for each rank, and which experts a rank
has, is what the mixture-of-experts branch of fairseq does, from which the released code was made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.errors import UserError

PART = re.compile(r"(.+)-(shared|rank-(\d+))")


def read_released(path: Path) -> dict[str, Any]:
    """The shared file, with the experts of all ranks numbered over all of them.

    A rank's file numbers its own from 0. With more ranks than experts, rank r has expert r modulo their number.
    """
    found = PART.fullmatch(path.stem)
    stem = found[1] if found else path.stem
    shared = path.with_name(f"{stem}-shared{path.suffix}")
    if not shared.is_file():
        raise UserError(f"{shared} is missing: a released model is a shared file and one for each rank")
    state = read_checkpoint(shared, foreign=True)
    model: dict[str, Tensor] = dict(state["model"])
    experts = max(
        (tensor.size(0) for name, tensor in model.items() if ".gate." in name and tensor.dim() == 2), default=0
    )
    ranks = _rank_files(path, stem)
    if not ranks or experts < 1:
        raise UserError(f"{shared}: there are no files of ranks next to it, or it has no gates")
    for rank, file in enumerate(ranks[:experts]):
        rank_state = read_checkpoint(file, foreign=True)
        here = max(1, experts // len(ranks))  # experts of a rank
        for name, tensor in rank_state["model"].items():
            model[_renumbered(name, rank * here)] = tensor
        if rank == 0:  # settings are in the files of the ranks
            told = {key: value for key, value in state.items() if value is not None}
            if not state["cfg"]["model"]:
                del told["cfg"]
            state = {**rank_state, **told}
    return {**state, "model": model}


def _rank_files(path: Path, stem: str) -> list[Path]:
    """By rank. UserError where one is missing."""
    files = {}
    for file in path.parent.glob(f"{stem}-rank-*{path.suffix}"):
        found = PART.fullmatch(file.stem)
        if found and found[3]:
            files[int(found[3])] = file
    missing = set(range(max(files, default=-1) + 1)) - set(files)
    if missing:
        raise UserError(
            f"{path.parent / stem}-rank-{min(missing)}{path.suffix} is missing: all ranks' files are needed"
        )
    return [files[rank] for rank in sorted(files)]


def _renumbered(name: str, first: int) -> str:
    return re.sub(r"(?<=\.experts\.)\d+(?=\.)", lambda number: str(first + int(number[0])), name)
