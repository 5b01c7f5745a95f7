"""The folder that ``smoe-mt export`` writes, and how it is read: checked file by file, and nothing in it can run.

- config.json: settings of the model, sizes and SHA-256 of the files below
- model.safetensors: weights, each once; its metadata names the weights that are tied to another (name -> kept name)
- spm.model, dict.txt, directions.txt, corpus.json: of the data folder, so that the folder is a data folder without text
- README.md: the model card, which anybody may edit
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smoe_mt.checkpoints.schema import untrained_history
from smoe_mt.errors import UserError

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
README = "README.md"
FROM_DATA_FOLDER = ("spm.model", "dict.txt", "directions.txt", "corpus.json")
PARTS = (WEIGHTS, *FROM_DATA_FOLDER)
REMEDY = "export the model again, or fetch the folder again"


def read_exported(weights: Path) -> dict[str, Any]:
    """An exported model in the form of a checkpoint: cfg, model (tied weights are one tensor), task_state, optimizer_history.

    `weights`: its model.safetensors. Raises UserError for a folder with a missing or altered file, or of another format.
    """
    folder = weights.parent
    config = _read_config(folder)
    for name in PARTS:
        _check_part(folder / name, config["files"][name])
    sections = {**config["config"], "task": {**config["config"]["task"], "data": str(folder.absolute())}}
    return {
        "args": None,
        "cfg": OmegaConf.create(sections, flags={"allow_objects": True}),
        "model": _read_weights(weights),
        "task_state": config["task_state"],
        "optimizer_history": untrained_history(config["updates"]),
        "extra_state": {},
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{path} is missing: not a folder that `smoe-mt export` wrote, or not all of it; {REMEDY}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {REMEDY}") from error
    if not isinstance(config, dict) or "smoe_mt_export" not in config:
        raise UserError(f"{path}: not written by `smoe-mt export`; give a folder that it wrote")
    if config["smoe_mt_export"] != FORMAT:
        raise UserError(
            f"{path}: of export format {config['smoe_mt_export']}, and this version of smoe_mt reads {FORMAT}; "
            "install the version that wrote it or export again"
        )
    try:
        whole = set(PARTS) <= set(config["files"]) and {"model", "task"} <= set(config["config"])
        whole = whole and isinstance(config["updates"], int) and isinstance(config["task_state"], dict)
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: altered or incomplete; {REMEDY}")
    return config


def _check_part(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; {REMEDY}")
    if fingerprint(path) != expected:
        raise UserError(f"{path} is not the file that was exported (its size or SHA-256 differs); {REMEDY}")


def fingerprint(path: Path, progress: Callable[[int], Any] = lambda _: None) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file; `progress` is told how many bytes were read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            progress(len(block))
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as stream:
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
            tied = dict(stream.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); {REMEDY}") from error
    tied.pop("format", None)
    return weights | {name: weights[kept] for name, kept in tied.items()}


def plain_sections(config: DictConfig) -> dict[str, Any]:
    """What of a checkpoint's configuration goes with the model: how it is built and how it was trained, but no paths."""
    sections: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    wanted = ("model", "task", "criterion", "optimizer", "lr_scheduler", "optimization")
    chosen = {name: dict(sections[name]) for name in wanted if isinstance(sections.get(name), dict)}
    chosen["task"]["data"] = None
    if chosen["model"].get("init_experts_from"):
        chosen["model"]["init_experts_from"] = Path(chosen["model"]["init_experts_from"]).name
    return chosen
