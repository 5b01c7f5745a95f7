"""Which file a path means, and where the results of a checkpoint go."""

from __future__ import annotations

from pathlib import Path

from smoe_mt.checkpoints.hub import fetch, looks_like_model_id
from smoe_mt.checkpoints.names import CHECKPOINT_NAMES, CONFIG, REMEDY, WEIGHTS
from smoe_mt.errors import UserError


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file for `path`: the file itself, a run folder's best checkpoint, else its last one, or the weights of
    an exported folder. What is no path here but looks like OWNER/NAME is fetched from the model hub.

    Raises UserError where there is none.
    """
    if not Path(path).exists() and looks_like_model_id(path):
        path = fetch(str(path))
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{path}: no such checkpoint or run folder; give what was --save-dir in training, a .pt file, or a folder that "
            "`smoe-mt export` wrote"
        )
    for name in CHECKPOINT_NAMES:
        if (path / name).is_file():
            return path / name
    if (path / CONFIG).is_file():
        raise UserError(f"{path / WEIGHTS} is missing; {REMEDY}")
    raise UserError(
        f"{path}: holds none of {', '.join(CHECKPOINT_NAMES)}; give the --save-dir of a finished training, or a folder "
        "that `smoe-mt export` wrote"
    )


def results_folder(checkpoint: Path, kind: str) -> Path:
    """Where results of this `kind` go by default: RUN/kind, and RUN/kind/NAME for any but the run's own choice."""
    return checkpoint.parent / kind / _own_name(checkpoint)


def run_name_parts(checkpoint: Path) -> tuple[str, ...]:
    """The parts of the run folder's path, and the checkpoint's name where it is not the run's own choice."""
    own = _own_name(checkpoint)
    return checkpoint.resolve().parent.parts + ((own,) if own else ())


def _own_name(checkpoint: Path) -> str:
    chosen = next((name for name in CHECKPOINT_NAMES if (checkpoint.parent / name).is_file()), None)
    return "" if checkpoint.name == chosen else checkpoint.stem
