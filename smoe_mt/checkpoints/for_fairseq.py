"""A checkpoint that was checked, in the form that fairseq expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.reading import damaged
from smoe_mt.checkpoints.settings import is_own


def in_fairseqs_form(
    state: dict[str, Any], path: str | Path, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A checked checkpoint as fairseq expects one: its settings as it composes them, `overrides` of a command line in them.

    Of a model that is not ours there are no settings: only a training that has its own takes up such a checkpoint.
    """
    from fairseq.checkpoint_utils import _upgrade_state_dict
    from fairseq.dataclass.utils import overwrite_args_by_name
    from omegaconf import OmegaConf

    settings = OmegaConf.create(state["cfg"]) if is_own(state) else None
    if settings is not None and overrides:
        overwrite_args_by_name(settings, overrides)
    try:
        upgraded: dict[str, Any] = _upgrade_state_dict({**state, "cfg": settings})
    except (KeyError, IndexError, TypeError) as error:  # it lacks what fairseq wants to bring up to date
        raise damaged(path, error) from error
    return upgraded
