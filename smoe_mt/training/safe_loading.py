"""fairseq's loading through ours: a checkpoint's bytes and settings are checked, and its tensors may be in a folder next to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from fairseq.file_io import PathManager

from smoe_mt.checkpoints.for_fairseq import in_fairseqs_form
from smoe_mt.checkpoints.reading import check_whole, open_checkpoint
from smoe_mt.checkpoints.sharded import MODEL, OPTIMISER, SHARDS, fill

Fill = Callable[[dict[str, Any], Path], None]
_fill: list[Fill] = []


def checked_loading(original: Callable[..., Any]) -> Callable[..., Any]:
    """fairseq's `load_checkpoint_to_cpu`, which loads through our own reading."""

    @wraps(original)
    def load(path: str, arg_overrides: dict[str, Any] | None = None, load_on_all_ranks: bool = False) -> Any:
        path = PathManager.get_local_path(path)
        if not _fill:
            check_whole(path)
        state = in_fairseqs_form(open_checkpoint(path, foreign=bool(_fill), mapped=False), path, arg_overrides)
        (_fill[-1] if _fill else _weights_alone)(state, Path(path))
        return state

    return load


@contextmanager
def filled_by(function: Fill) -> Iterator[None]:
    """Inside, a training loads a checkpoint that was checked before: no settings are used, and `function` reads tensors of other files."""
    _fill.append(function)
    try:
        yield
    finally:
        _fill.pop()


def _weights_alone(state: dict[str, Any], path: Path) -> None:
    if state.get(SHARDS):
        fill(state, path, (MODEL,))
        state[OPTIMISER] = None
