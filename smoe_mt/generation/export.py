"""``smoe-mt export``: a run becomes a folder that translates anywhere, without the training data."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smoe_mt import __version__
from smoe_mt.checkpoints.exported import FORMAT, fingerprint, own_files, plain_sections
from smoe_mt.checkpoints.names import CONFIG, FROM_DATA_FOLDER, PARTS, README, WEIGHTS
from smoe_mt.checkpoints.schema import is_weight, tied_tensors
from smoe_mt.checksums import sealed
from smoe_mt.devices import pick_dtype
from smoe_mt.errors import UserError
from smoe_mt.files import write_json, write_text
from smoe_mt.folders import atomic_directory, restore
from smoe_mt.generation.card import model_card, read_scores
from smoe_mt.generation.checkpoint import LoadedModel, load_model


def run(args: argparse.Namespace) -> None:
    """Export, and say where and how large. Raises UserError for what cannot be loaded or written."""
    out = Path(args.out)
    check_place(out, args.overwrite)
    loaded = load_model(args.run, args.data, "cpu", verify=args.verify)
    export(loaded, out, args.name or out.absolute().name, args.licence, args.dtype)
    size = sum((out / name).stat().st_size for name in (CONFIG, README, *PARTS))
    print(f"{out}: {size / 1e6:,.1f} MB, {', '.join((CONFIG, README, *PARTS))}")


def check_place(out: Path, overwrite: bool) -> None:
    """UserError unless `out` is free, or an earlier export that may be replaced. An export that was killed is finished first."""
    restore(out, own_files)
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not own_files(out):
        raise UserError(f"{out} is there already and is no exported model; give another folder")
    if not overwrite:
        raise UserError(f"{out} holds an exported model already; give another folder, or --overwrite to replace it")


def export(loaded: LoadedModel, out: Path, name: str, licence: str | None = None, dtype: str = "fp32") -> None:
    """Write the model, its vocabulary and its card into `out`, in place of an earlier export's; whole or not at all.

    What else is in `out` stays, a card that a person has changed as README.md.earlier.

    `licence`: of the weights, for the card; `dtype`: fp32, bf16 or fp16. Raises UserError where `out` cannot be written.
    """
    with atomic_directory(out, own_files) as folder:
        for part in FROM_DATA_FOLDER:
            shutil.copyfile(loaded.task.folder.path / part, folder / part)
        write_weights(loaded.model, folder / WEIGHTS, pick_dtype(dtype))
        shutil.copymode(folder / FROM_DATA_FOLDER[0], folder / WEIGHTS)  # safetensors lets the owner alone read it
        scores = read_scores(loaded)
        config: dict[str, Any] = {
            "smoe_mt_export": FORMAT,
            "smoe_mt_version": __version__,
            "model_type": "smoe_mt",
            "name": name,
            "directions": loaded.task.directions,
            "parameters": count_parameters(loaded.model),
            "dtype": dtype,
            "updates": loaded.updates,
            "task_state": loaded.task.state_dict(),
            "config": plain_sections(loaded.config),
            "files": {part: fingerprint(folder / part) for part in PARTS},
        }
        write_text(folder / README, model_card(config, loaded.task.folder.card, scores, licence))
        # By which a later export knows that nobody has changed it.
        config["files"][README] = fingerprint(folder / README)
        write_json(folder / CONFIG, sealed(config))


def count_parameters(model: nn.Module) -> int:
    """Weights of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_weights(model: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """A safetensors file with each weight once; its metadata maps the names that are tied to the one that is kept."""
    weights: dict[str, Tensor] = model.state_dict()
    tied = tied_tensors(weights)
    kept = {
        name: tensor.to("cpu", dtype if is_weight(name, tensor) else tensor.dtype).contiguous()
        for name, tensor in weights.items()
        if name not in tied
    }
    save_file(kept, path, metadata={"format": "pt", **tied})
