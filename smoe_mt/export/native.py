"""The form that smoe_mt itself reads (``checkpoints.exported``)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smoe_mt.checkpoints.names import FROM_DATA_FOLDER, PARTS, WEIGHTS
from smoe_mt.checkpoints.schema import is_weight, tied_tensors
from smoe_mt.devices import pick_dtype
from smoe_mt.export.card import external_system
from smoe_mt.export.folder import Format, Record
from smoe_mt.generation.checkpoint import LoadedModel


def any_model(loaded: LoadedModel) -> None:
    """The check of a format that can hold every model."""


def write(loaded: LoadedModel, folder: Path, dtype: str) -> Sequence[str]:
    """The weights, and what of the data folder a translation needs."""
    copy_vocabulary(loaded, folder, FROM_DATA_FOLDER)
    write_weights(loaded.model, folder / WEIGHTS, pick_dtype(dtype))
    shutil.copymode(folder / FROM_DATA_FOLDER[0], folder / WEIGHTS)  # safetensors lets the owner alone read it
    return PARTS


def copy_vocabulary(loaded: LoadedModel, folder: Path, names: Sequence[str]) -> None:
    """Copy these files of the model's data folder."""
    for name in names:
        shutil.copyfile(loaded.task.folder.path / name, folder / name)


def config(loaded: LoadedModel, folder: Path, record: Record) -> Record:
    """The record alone."""
    return record


def use(record: Record) -> str:
    """With smoe_mt."""
    source, target = record["directions"][0].split("-")
    return external_system(record) + (
        f"```python\nfrom smoe_mt import Translator\n\ntranslator = Translator.from_pretrained({record['name']!r})"
        "  # the path of this folder\n"
        f'translator.translate(["..."], source="{source}", target="{target}")\n```\n\n'
        f"```bash\nsmoe-mt translate -m {record['name']} -s {source} -t {target} < text\n```"
    )


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


FORMAT = Format(any_model, write, config, use)
