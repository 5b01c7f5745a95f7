"""``smoe-mt checkpoint inspect``: what a checkpoint holds, and whether all of its bytes are what was written.

Tensors are mapped, not loaded: memory stays small whatever the size of the model. Nothing in the file can run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from smoe_mt.checkpoints import sharded
from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.checkpoints.names import BUFFERS_OF_GATES, PARTS
from smoe_mt.checkpoints.reading import check_whole, open_checkpoint, tied_names
from smoe_mt.checkpoints.schema import TASK, CheckpointView
from smoe_mt.checkpoints.sharded import Shards
from smoe_mt.errors import UserError
from smoe_mt.models.meaning import settings_of_blocks
from smoe_mt.moe.systems.moefied import UNITS

#: Sizes of a model; the settings of its blocks are asked of its system.
SIZES = (
    *("encoder_layers", "decoder_layers", "encoder_embed_dim", "decoder_embed_dim"),
    *("encoder_ffn_embed_dim", "decoder_ffn_embed_dim", "encoder_attention_heads", "decoder_attention_heads"),
)
BUFFERS = (
    ".version",
    "._float_tensor",
    f".experts.{UNITS}",
    *BUFFERS_OF_GATES,
)  # no parameters; the first two are fairseq's


def run(args: argparse.Namespace) -> None:
    """Print what is found. UserError for a file that cannot be read, and at the end for one that is not whole."""
    path = find_checkpoint(args.model)
    found = inspect_checkpoint(path, args.weights)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.format == "json" else as_text(found))
    if found["damage"]:
        raise UserError(found["damage"])


def inspect_checkpoint(path: Path, with_weights: bool = False) -> dict[str, Any]:
    """All that is known of a checkpoint, in plain values. UserError where it cannot be opened."""
    state = open_checkpoint(path, foreign=True)
    view, settings = CheckpointView(state), state["cfg"]
    model = settings["model"]
    found = {
        "path": str(path),
        "form": form_of(path, state),
        "bytes": sum(file.stat().st_size for file in files_of(path, state) if file.is_file()),
        "damage": damage_of(path),
        "uses": uses_of(state, settings),
        "updates": view.updates,
        "epoch": view.epoch,
        "validation_loss": view.validation_loss,
        "mean_of": view.mean_of,
        "pruned_from": view.pruned_from,
        "task": settings["task"].get("_name"),
        "architecture": model.get("_name"),
        "model": {name: model[name] for name in shown_settings(model) if model.get(name) is not None},
        "parameters": count_parameters(state),
        "precision": dict(Counter(type_name(weight) for weight in state["model"].values())),
        "vocabulary": view.vocabulary,
    }
    if with_weights:
        found["weights"] = [[name, list(one.shape), type_name(one)] for name, one in state["model"].items()]
    return found


def shown_settings(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings that say what a model is. UserError for an unknown system."""
    if "moe" not in model:  # not one of ours
        return SIZES
    blocks = settings_of_blocks(model)
    return ("moe", *blocks, *(("moe_freq",) if blocks else ()), *SIZES)


def form_of(path: Path, state: Mapping[str, Any]) -> str:
    """How it lies on the disk."""
    if path.suffix == ".safetensors":
        return "exported folder"
    shards = Shards.of(state, path)
    return f"sharded ({len(shards.files)} files in {shards.folder})" if shards else "one file"


def files_of(path: Path, state: Mapping[str, Any]) -> list[Path]:
    """All files that the checkpoint consists of."""
    if path.suffix == ".safetensors":
        return [path.parent / part for part in PARTS]
    shards = Shards.of(state, path)
    return [path, *(sharded.files_of(path, shards) if shards else ())]


def damage_of(path: Path) -> str | None:
    """What is wrong with its bytes; None if they are what was written."""
    try:
        check_whole(path)
    except UserError as error:
        return str(error)
    return None


def uses_of(state: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What can be done with it."""
    if settings["task"].get("_name") != TASK:
        return ["convert"]
    return [*(["resume"] if CheckpointView(state).resumable else []), "translate", "fine-tune"]


def count_parameters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights in all, of experts, and of each MoE block; tied ones count once."""
    tied = tied_names(state)
    sizes = {
        name: math.prod(weight.shape)
        for name, weight in state["model"].items()
        if name not in tied and not name.endswith(BUFFERS)
    }
    blocks: Counter[str] = Counter()
    for name, size in sizes.items():
        layer, block, _ = name.partition(".block.")
        if block:
            blocks[layer] += size
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    return {"total": sum(sizes.values()), "experts": experts, "blocks": dict(blocks)}


def type_name(tensor: Tensor) -> str:
    """float32, ..."""
    return str(tensor.dtype).removeprefix("torch.")


def as_text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    parameters, vocabulary = found["parameters"], found["vocabulary"] or {}
    rows = [
        (found["path"], f"{found['form']}, {found['bytes'] / 1e6:,.1f} MB"),
        ("whole", "no" if found["damage"] else "yes, all bytes are what was written"),
        ("good to", ", ".join(found["uses"])),
        ("task", found["task"]),
        ("architecture", found["architecture"]),
        ("updates", None if found["updates"] is None else f"{found['updates']:,}"),
        ("epoch", found["epoch"]),
        ("validation loss", found["validation_loss"]),
        ("mean of", ", ".join(found["mean_of"] or [])),
        ("pruned from", found["pruned_from"]),
        ("precision", ", ".join(f"{count} weights {name}" for name, count in found["precision"].items())),
        ("parameters", f"{parameters['total']:,}, of which {parameters['experts']:,} are experts'"),
        *((f"  {layer}", f"{size:,} (MoE block)") for layer, size in parameters["blocks"].items()),
        (
            "vocabulary",
            f"{vocabulary['size']:,} entries, sha256 {vocabulary['sha256']}" if vocabulary else "not stated",
        ),
        *((name, value) for name, value in found["model"].items()),
        *((name, f"{type_} {shape}") for name, shape, type_ in found.get("weights", [])),
    ]
    shown = [(name, str(value)) for name, value in rows if value not in (None, "")]
    width = max(len(name) for name, _ in shown[1:])
    return "\n".join([": ".join(shown[0]), *(f"  {name:<{width}}  {value}" for name, value in shown[1:])])
