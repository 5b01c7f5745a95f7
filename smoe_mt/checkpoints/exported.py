"""The folder that ``smoe-mt export`` writes, and how it is read: every file is checked, and no code is run.

- config.json: settings of the model, sizes and SHA-256 of the files below
- model.safetensors: weights, each once; its metadata names the weights that are tied to another (name -> kept name)
- spm.model, dict.txt, directions.txt, corpus.json: of the data folder, so that the folder is a data folder without text
- README.md: the model card, which anybody may edit

A folder for transformers (``--format huggingface``) is read as well: its config.json has the same record under a key of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smoe_mt.checkpoints.names import CONFIG, OTHER_PARTS, PARTS, README, RECORD, REMEDY, WEIGHTS
from smoe_mt.checkpoints.schema import untrained_history
from smoe_mt.checksums import is_intact, sha256_file
from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json_object
from smoe_mt.ranges import shown

FORMAT = 1


def read_exported(weights: Path) -> dict[str, Any]:
    """An exported model in the form of a checkpoint: cfg, model (tied weights are one tensor), task_state, optimizer_history.

    `weights`: its model.safetensors. What config.json says is not checked yet (`checked_state`). Raises UserError for a folder with a missing or altered file, or of another format.
    """
    folder = weights.parent
    config = _read_config(folder)
    for name in PARTS:
        _check_part(folder / name, config["files"][name])
    sections = {**config["config"], "task": {**config["config"]["task"], "data": str(folder.absolute())}}
    return {
        "args": None,
        "cfg": sections,
        "model": _read_weights(weights, config.get("tied")),
        "task_state": config["task_state"],
        "optimizer_history": untrained_history(config["updates"]),
        "extra_state": {},
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{path} is missing: not a folder that `smoe-mt export` wrote, or not all of it; {REMEDY}")
    config = record_in(read_json_object(path, REMEDY))
    if "smoe_mt_export" not in config:
        raise UserError(f"{path}: not written by `smoe-mt export`; give a folder that it wrote")
    if config["smoe_mt_export"] != FORMAT:
        raise UserError(
            f"{path}: of export format {shown(config['smoe_mt_export'])}, and this version of smoe_mt reads {FORMAT}; "
            "install the version that wrote it or export again"
        )
    try:
        whole = set(PARTS) <= set(config["files"]) and isinstance(config["task_state"], dict)
        whole = whole and all(isinstance(config["config"][name], dict) for name in ("model", "task"))
        whole = whole and isinstance(config["updates"], int)
    except (KeyError, TypeError):
        whole = False
    if not whole or not is_intact(config):
        raise UserError(f"{path}: altered or incomplete; {REMEDY}")
    return config


def _check_part(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; {REMEDY}")
    if fingerprint(path) != expected:
        raise UserError(f"{path} is not the file that was exported (its size or SHA-256 differs); {REMEDY}")


def check_weights(folder: Path) -> None:
    """UserError where the weights of an exported folder are not those that its config.json names; nothing where it names none."""
    try:
        files = record_in(read_json_object(folder / CONFIG)).get("files")
    except UserError:  # no folder, or one whose reader says what is wrong with it
        return
    if isinstance(files, dict) and isinstance(files.get(WEIGHTS), dict):
        _check_part(folder / WEIGHTS, files[WEIGHTS])


def own_files(folder: Path) -> list[str]:
    """Names of the files in a folder that `smoe-mt export` wrote there; none where its config.json does not say that it did.

    README.md is one of them as long as nobody has changed it.
    """
    try:
        config = record_in(read_json_object(folder / CONFIG))
    except UserError:
        return []
    if "smoe_mt_export" not in config:
        return []
    files = config.get("files")
    listed: dict[str, Any] = files if isinstance(files, dict) else dict.fromkeys(PARTS)
    card = listed.get(README)
    names = (CONFIG, *(name for name in (*PARTS, *OTHER_PARTS) if name in listed))
    own = [name for name in names if _is_file(folder / name)]
    unchanged = _is_file(folder / README) and fingerprint(folder / README) == card
    return [*own, README] if unchanged else own


def record_in(config: dict[str, Any]) -> dict[str, Any]:
    """What we wrote of the model into a config.json: all of it, or a part of another program's. Empty where there is none."""
    inside = config.get(RECORD)
    return config if "smoe_mt_export" in config or not isinstance(inside, dict) else inside


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def fingerprint(path: Path, progress: Callable[[int], Any] = lambda _: None) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file; `progress` is called with the number of bytes read."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path, progress)}


def _read_weights(path: Path, ties: Any) -> dict[str, Tensor]:
    """`ties`: of config.json, for a file that was written by a program which keeps none in it."""
    try:
        with safe_open(path, framework="pt") as stream:
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
            tied = dict(stream.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); {REMEDY}") from error
    tied.pop("format", None)
    if isinstance(ties, dict):
        tied |= {str(name): str(kept) for name, kept in ties.items()}
    if unknown := set(tied.values()) - set(weights):
        raise UserError(f"{path}: it ties weights to {min(unknown)!r}, which it does not hold; {REMEDY}")
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
