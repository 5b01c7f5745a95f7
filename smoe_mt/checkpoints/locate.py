"""Which file a path means, and where the results of a checkpoint go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.hub import fetch, looks_like_model_id
from smoe_mt.checkpoints.names import CHECKPOINT_NAMES, CONFIG, CTRANSLATE2_WEIGHTS, REMEDY, WEIGHTS
from smoe_mt.errors import UserError
from smoe_mt.inputs import no_such
from smoe_mt.paths import check_utf8, expanded


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file for `path`: the file itself, a run folder's best checkpoint, else its last one, or the weights of
    an exported folder. What is no path here but looks like OWNER/NAME is fetched from the model hub.

    Raises UserError where there is none.
    """
    path = expanded(str(path))
    check_utf8(path)
    if not Path(path).exists() and looks_like_model_id(path):
        path = fetch(str(path))
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{no_such(path, 'checkpoint or run folder')}; give a run folder (checkpoint.save_dir of the training), "
            "a .pt file, or a folder that `smoe-mt export` wrote"
        )
    for name in CHECKPOINT_NAMES:
        if (path / name).is_file():
            return path / name
    if (path / CTRANSLATE2_WEIGHTS).is_file():
        raise UserError(
            f"{path}: a model in CTranslate2's format, which its README.md says how to use; give a run folder, or export without "
            "--format ctranslate2"
        )
    if (path / CONFIG).is_file():
        raise UserError(f"{path / WEIGHTS} is missing; {REMEDY}")
    raise UserError(
        f"{path}: holds none of {', '.join(CHECKPOINT_NAMES)}; give a run folder (checkpoint.save_dir of a finished training), "
        "or a folder that `smoe-mt export` wrote"
    )


def data_folder_of(settings: Mapping[str, Any], checkpoint: Path) -> Path | None:
    """The data folder of a checkpoint by its settings (cfg), also where run and data have moved together, or where the training
    kept relative paths and was started elsewhere; what the settings say where there is none, None where they say nothing.
    """
    stored = str((settings.get("task") or {}).get("data") or "")
    if not stored:
        return None
    run = str((settings.get("checkpoint") or {}).get("save_dir") or "")
    places = [Path(stored)]
    if run and os.path.isabs(run) == os.path.isabs(stored):
        beside = Path(os.path.normpath(checkpoint.absolute().parent / os.path.relpath(stored, run)))
        places.insert(0 if not os.path.isabs(stored) else 1, beside)
    return next((place for place in places if place.is_dir()), Path(stored))


def results_folder(checkpoint: Path, kind: str, of_all: bool = False) -> Path:
    """Where results of this `kind` go by default: RUN/kind, and RUN/kind/NAME for any but the run's own choice.

    `of_all`: the folder of those of all checkpoints of the run.
    """
    return checkpoint.parent / kind / ("" if of_all else _own_name(checkpoint))


def run_name_parts(checkpoint: Path) -> tuple[str, ...]:
    """The parts of the run folder's path, and the checkpoint's name where it is not the run's own choice."""
    own = _own_name(checkpoint)
    return checkpoint.resolve().parent.parts + ((own,) if own else ())


def _own_name(checkpoint: Path) -> str:
    chosen = next((name for name in CHECKPOINT_NAMES if (checkpoint.parent / name).is_file()), None)
    return "" if checkpoint.name == chosen else checkpoint.stem
