"""fairseq's own loading, made to check a checkpoint first, to say what is wrong with it, and to read tensors that lie beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.reading import check_whole, damaged
from smoe_mt.checkpoints.sharded import MODEL, OPTIMISER, SHARDS, fill
from smoe_mt.errors import UserError

Fill = Callable[[dict[str, Any], Path], None]
_fill: list[Fill] = []


def checked_loading(original: Callable[..., Any]) -> Callable[..., Any]:
    """fairseq's `load_checkpoint_to_cpu` that raises a UserError for a file that is no whole checkpoint."""

    @wraps(original)
    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        if not _fill:
            check_whole(path)
        try:
            state = original(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # a checkpoint of other fields than fairseq's makes it raise nearly anything
            raise damaged(path, error) from error
        (_fill[-1] if _fill else _weights_alone)(state, Path(path))
        return state

    return load


@contextmanager
def filled_by(function: Fill) -> Iterator[None]:
    """Within, what is loaded was checked before, and `function` reads the tensors that lie beside it."""
    _fill.append(function)
    try:
        yield
    finally:
        _fill.pop()


def _weights_alone(state: dict[str, Any], path: Path) -> None:
    if state.get(SHARDS):
        fill(state, path, (MODEL,))
        state[OPTIMISER] = None
