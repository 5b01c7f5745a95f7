"""The paths of a training's configuration, made absolute where it starts: its checkpoints are used from other folders."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import open_dict

from smoe_mt.allowed.keys import GROUPS
from smoe_mt.allowed.kinds import is_path
from smoe_mt.checkpoints.names import LAST
from smoe_mt.errors import UserError
from smoe_mt.paths import expanded


def make_absolute(cfg: Any) -> None:
    """Replace each relative path, and ``~``, in a configuration whose references are resolved. UserError where that cannot be."""
    start = _start()
    for group, keys in GROUPS.items():
        section = cfg.get(group)
        for name in (name for name, kind in keys.items() if is_path(kind)):
            value = getattr(section, name, None) if section is not None and name in section else None
            # LAST is the default of checkpoint.restore_file, no path but a name in the run's folder.
            if not isinstance(value, str) or not value or "://" in value or value == LAST:
                continue
            path = os.path.join(start, expanded(value))
            if "${" in path:
                raise UserError(
                    f"{group}.{name}: {path} has ${{ in it, which is taken for a reference to a setting; rename that folder"
                )
            with open_dict(cfg):
                section[name] = os.path.normpath(path) if name == "save_dir" else path


def _start() -> str:
    """The folder that the command was given in; Hydra may have changed to the job's."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else os.getcwd()
