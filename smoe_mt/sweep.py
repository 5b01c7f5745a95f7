"""The folders of a multirun: one for each job, named after what is swept, known before the first job starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.allowed.overrides import quoted
from smoe_mt.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

SAVE_DIR, SWEEP_DIR, SUBDIR = "checkpoint.save_dir", "hydra.sweep.dir", "hydra.sweep.subdir"
#: Overrides of a job -> its configuration, with Hydra's part.
Compose = Callable[[Sequence[str]], "DictConfig"]


@dataclass(frozen=True)
class Swept:
    """A setting or a group of configs, with the overrides that a sweep makes of it."""

    key: str
    overrides: tuple[str, ...]
    values: tuple[Any, ...]

    def name(self, short: bool) -> str:
        """A part of a folder's name, the value as a reference: ``seed${common.seed}``, ``activation_fn-${...}``."""
        name = self.key.rpartition(".")[2] if short else self.key
        if "." not in self.key:
            return f"{name.replace('/', '-')}-${{hydra:runtime.choices.{self.key}}}"
        lists = [value for value in self.values if isinstance(value, list)]
        if lists and len({len(value) for value in lists}) == 1 and len(lists) == len(self.values):
            found = "-".join(f"${{{self.key}[{place}]}}" for place in range(len(lists[0])))
            numbers = all(_is_number(each) for value in lists for each in value)
        else:
            found, numbers = f"${{{self.key}}}", all(map(_is_number, self.values))
        return f"{name}{found}" if numbers else f"{name}-{found}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_folders(overrides: Sequence[str], compose: Compose) -> list[str]:
    """The overrides of a multirun; where jobs would share a folder that the user has not named, what is swept is added to its name.

    Raises:
        UserError: two jobs in one folder all the same.
    """
    parsed = [_parsed(text) for text in overrides]
    swept = [_swept(one) for one in parsed if one.is_sweep_override()]
    if not swept or None in swept:  # a sweeper that draws, whose jobs nobody knows yet
        return list(overrides)
    known = [one for one in swept if one is not None]
    fixed = [text for text, one in zip(overrides, parsed) if not one.is_sweep_override()]
    folders = _folders(fixed, known, compose)
    shared = _shared(folders)
    if not shared:
        return [*overrides, *_beside_checkpoints(parsed)]
    if any(one.key_or_group == SAVE_DIR for one in parsed):
        raise _collision(known, folders, shared)
    untold = [one for place, one in enumerate(known) if _differ_in(place, folders)]
    short = [one.key.rpartition(".")[2] for one in untold]
    suffix = "/".join(one.name(short.count(one.key.rpartition(".")[2]) == 1) for one in untold)
    named = [_extended(SAVE_DIR, fixed, known, compose, suffix)]
    if not any(one.key_or_group.startswith("hydra.sweep") for one in parsed):
        named.append(_extended(SUBDIR, fixed, known, compose, suffix))
    folders = _folders([*fixed, *named], known, compose)
    if shared := _shared(folders):
        raise _collision(known, folders, shared)
    return [*overrides, *named]


def _beside_checkpoints(overrides: Sequence[Override]) -> list[str]:
    """Overrides that put Hydra's logs into the folders of the jobs, where the user has named these by a pattern."""
    pattern = next((str(one.value()) for one in overrides if one.key_or_group == SAVE_DIR), "")
    if "${" not in pattern or any(one.key_or_group.startswith("hydra.sweep") for one in overrides):
        return []
    before, _, after = pattern.partition("${")
    folder, slash, begun = before.rpartition("/")
    return [f"{SWEEP_DIR}={quoted((folder or slash) or '.')}", f"{SUBDIR}={quoted(begun + '${' + after)}"]


def _parsed(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(text)


def _swept(override: Override) -> Swept | None:
    """None for a sweep that is not a list of values."""
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        return None
    left = str(override.input_line).partition("=")[0]
    texts = list(override.sweep_string_iterator())
    values = tuple(_parsed(f"x={text}").value() for text in texts)
    return Swept(override.key_or_group, tuple(f"{left}={text}" for text in texts), values)


#: Of each job: which value of each swept setting -> its folder.
Folders = dict[tuple[int, ...], str]


def _folders(fixed: Sequence[str], swept: Sequence[Swept], compose: Compose) -> Folders:
    found = {}
    for job in itertools.product(*(range(len(one.overrides)) for one in swept)):
        own = [one.overrides[value] for one, value in zip(swept, job)]
        found[job] = _save_dir(compose([*fixed, *own]))
    return found


def _save_dir(cfg: DictConfig) -> str:
    """With the references to Hydra's own values resolved, which needs the configuration to be Hydra's for the moment."""
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(cfg)
    try:
        return str(cfg.checkpoint.save_dir)
    finally:
        HydraConfig.instance().cfg = None


def _shared(folders: Folders) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Two jobs with the same folder."""
    first: dict[str, tuple[int, ...]] = {}
    for job, folder in folders.items():
        if first.setdefault(folder, job) != job:
            return first[folder], job
    return None


def _differ_in(place: int, folders: Folders) -> bool:
    """Whether two jobs that differ in this setting alone share a folder."""
    seen = [((*job[:place], *job[place + 1 :]), folder) for job, folder in folders.items()]
    return len(set(seen)) < len(seen)


def _extended(key: str, fixed: Sequence[str], swept: Sequence[Swept], compose: Compose, suffix: str) -> str:
    """The override that adds `suffix` to the path of a key, with its references as they are."""
    from omegaconf import OmegaConf

    group, _, name = key.rpartition(".")
    cfg = compose([*fixed, *(one.overrides[0] for one in swept)])
    path = OmegaConf.to_container(OmegaConf.select(cfg, group), resolve=False)[name]  # type: ignore[index,call-overload]
    return f"{key}={quoted(f'{path}/{suffix}')}"


def _collision(swept: Sequence[Swept], folders: Folders, shared: tuple[tuple[int, ...], tuple[int, ...]]) -> UserError:
    one, other = ([each.overrides[value] for each, value in zip(swept, job)] for job in shared)
    example = "/".join(each.name(short=True) for each in swept)
    return UserError(
        f"checkpoint.save_dir={folders[shared[0]]} is that of two jobs of this multirun, {' '.join(one)} and "
        f"{' '.join(other)}: leave it out, or put what you sweep into it, as in 'checkpoint.save_dir=runs/{example}'"
    )
