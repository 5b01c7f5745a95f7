"""Names in overrides, looked up before torch is imported: an unknown one is told, with the one that was probably meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smoe_mt.allowed.keys import GROUPS, KEYS
from smoe_mt.allowed.kinds import shown
from smoe_mt.allowed.overrides import values_of
from smoe_mt.errors import UserError

#: The parts of fairseq's configuration.
SECTIONS = (*GROUPS, "common_eval", "bmuf", "eval_lm", "interactive", "scoring", "bpe", "tokenizer", "ema")
#: The parts whose settings are all in the table, whatever model, optimiser or schedule is chosen.
COMPLETE = ("common", "dataset", "optimization", "checkpoint")
#: The parts whose settings depend on the chosen class: those of our configs are in the table or listed in a config.
OF_OUR_CLASSES = ("model", "task", "criterion", "optimizer", "lr_scheduler")
FROM_ELSEWHERE = "SMOE_MT_SYSTEMS"  # names files whose systems add settings of their own


def check_names(overrides: Sequence[str], folder: Path, ours: bool, multirun: bool = False) -> None:
    """UserError for an override of an unknown part, setting or group, or with an unknown member of a group.

    What cannot be known yet is left to Hydra, which knows all classes. `folder`: of the configs, `ours`: it is the package's.
    """
    groups = groups_of(folder)
    keys = [text.partition("=")[0] for text in overrides]
    chosen = {key.lstrip("+~") for key in keys} - set(groups)
    for text, left in zip(overrides, keys, strict=True):
        key = left.lstrip("+~")
        section, _, name = key.partition(".")
        if key in groups:
            _check_member(key, text, groups[key], multirun)
        elif key in KEYS or section.startswith("hydra") or "@" in key or "/" in key:
            continue
        elif section not in {*SECTIONS, *groups}:
            if not left.startswith("+"):
                raise unknown_setting(key, known_settings(folder) if name else {*SECTIONS, *groups})
        elif name and "." not in name and _is_complete(section, chosen, ours):
            known = known_settings(folder)
            if key not in known:
                raise unknown_setting(key, known)


def known_settings(folder: Path) -> set[str]:
    """The settings ("model.dropout") of the table and of a folder of configs."""
    return {*KEYS, *listed_in(folder)}


def unknown_setting(key: str, known: Iterable[str]) -> UserError:
    """The error for a key that is none of the known ones, with what was probably meant."""
    return UserError(f"{shown(key)}: there is no such setting{did_you_mean(key, known)}")


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """The end of a message: the name most like the one given, of a setting also that of another part; empty for none."""
    names = sorted(names)
    last = given.rpartition(".")[2]
    near = [name for name in names if name.rpartition(".")[2] == last] if "." in given else []
    near = near or difflib.get_close_matches(given, names, n=1, cutoff=0.75)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def groups_of(folder: Path) -> dict[str, list[str]]:
    """The groups of a folder of configs, such as model, with the names of their members."""
    parts = [part for part in folder.iterdir() if part.is_dir() and part.name != "hydra"]
    members = {part.name: sorted(file.stem for file in part.glob("*.yaml")) for part in parts}
    return {name: found for name, found in members.items() if found}


def listed_in(folder: Path) -> set[str]:
    """The settings ("model.dropout") that the configs of a folder and of its groups list; unreadable files are left out."""
    found: set[str] = set()
    for file in folder.glob("*.yaml"):
        found |= _settings_of_parts(_read(file))
    for group, members in groups_of(folder).items():
        for member in members:
            config = _read(folder / group / f"{member}.yaml")
            found |= {f"{group}.{name}" for name in config}
            found |= _settings_of_parts(config)  # of a member that sets other parts too (@package _global_)
    return found


def _settings_of_parts(config: Mapping[str, Any]) -> set[str]:
    return {f"{part}.{name}" for part in config if isinstance(config[part], dict) for name in config[part]}


def _read(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _check_member(group: str, text: str, members: Collection[str], multirun: bool) -> None:
    values = values_of(text)
    for value in values:
        if isinstance(value, str) and "${" not in value and value not in members:
            raise UserError(
                f"{group}={shown(value)}: there is no such {group}{did_you_mean(value, members)}; there are {', '.join(members)}"
            )
    if len(values) > 1 and not multirun:
        raise UserError(
            f"{shown(text)}: one {group} for one training; with -m each of them is trained, one after the other"
        )


def _is_complete(section: str, chosen: Collection[str], ours: bool) -> bool:
    """Whether all settings of a part are known without asking its class. `chosen`: keys of overrides that may choose another."""
    if section in COMPLETE:
        return True
    asked = section in OF_OUR_CLASSES and ours and not os.environ.get(FROM_ELSEWHERE)
    return asked and {section, f"{section}._name", "common.user_dir"}.isdisjoint(chosen)
