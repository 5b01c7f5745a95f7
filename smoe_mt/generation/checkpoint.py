"""From a path to a model that is ready to use: finds the checkpoint, loads it safely, attaches its data folder.

Loading goes through fairseq, with torch's ``weights_only`` safety on, or through safetensors: a checkpoint never runs code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from smoe_mt import register
from smoe_mt.checkpoints.exported import CONFIG, REMEDY, WEIGHTS, read_exported
from smoe_mt.checkpoints.hub import fetch, looks_like_model_id
from smoe_mt.checkpoints.reading import first_sentence
from smoe_mt.errors import UserError

TASK = "many_to_many_translation"
CHECKPOINT_NAMES = ("checkpoint_best.pt", "checkpoint_last.pt", WEIGHTS)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its task and the configuration it was trained with."""

    model: Any
    task: Any
    config: DictConfig
    checkpoint: Path
    updates: int


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


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), or any device that torch knows by name. UserError for others."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, and torch finds no CUDA device here; use auto or cpu")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """fp32, bf16 or fp16. UserError for others."""
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(
    path: str | Path,
    data: str | Path | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    expert_parallel_size: int = 1,
) -> LoadedModel:
    """Load the model of a checkpoint, a run folder or an exported folder; its weights become `dtype` (fp32, bf16, fp16).

    `expert_parallel_size`: so many ranks share out its experts, whatever it was trained on.

    `data` replaces the data folder that the checkpoint remembers (it may have been moved since). Raises UserError for a
    file that is no whole checkpoint of this plugin, a data folder that is gone, or one of another vocabulary.
    """
    from fairseq import checkpoint_utils

    register()
    checkpoint = find_checkpoint(path)
    target, precision = pick_device(device), pick_dtype(dtype)
    state = read_for_fairseq(checkpoint)
    config = _checked_config(state, checkpoint)
    _attach_data(config, data, checkpoint)
    with open_dict(config):
        config.task.expert_parallel_size = expert_parallel_size
    history = state.get("optimizer_history") or [{}]
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    except UserError:
        raise
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit the model that its configuration describes ({first_sentence(error)}); "
            "was it written by another version of smoe_mt?"
        ) from error
    model = models[0]
    model.eval().to(device=target, dtype=precision)
    return LoadedModel(model, task, config, checkpoint, int(history[-1].get("num_updates", 0)))


def read_for_fairseq(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint file holds, in fairseq's form: cfg, model, task_state, ... UserError for a damaged one."""
    from fairseq import checkpoint_utils

    if checkpoint.suffix == ".safetensors":
        return read_exported(checkpoint)
    state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    return state


def _checked_config(state: dict[str, Any], checkpoint: Path) -> DictConfig:
    config = state.get("cfg")
    name = OmegaConf.select(config, "task._name") if isinstance(config, DictConfig) else None
    if not isinstance(config, DictConfig) or name != TASK:
        raise UserError(f"{checkpoint}: a model of the task {name or 'unknown'}, and smoe_mt reads those of {TASK}")
    return config


def _attach_data(config: DictConfig, data: str | Path | None, checkpoint: Path) -> None:
    """Put the data folder into the configuration, as an absolute path."""
    stored = config.task.data
    folder = Path(data if data is not None else stored or "")
    if data is None and (not stored or not folder.is_dir()):
        raise UserError(
            f"{checkpoint}: its data folder {stored} is not there any more; say where it is now with --data"
        )
    with open_dict(config):
        config.task.data = str(folder.absolute())
