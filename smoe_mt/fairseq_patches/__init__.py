"""All that smoe_mt changes in fairseq, Hydra and torch, in one place; `smoe-mt path patches` prints it.

Nothing is changed by an import: `smoe_mt.register` calls `apply`, and nothing else does.
"""

from __future__ import annotations

from smoe_mt.fairseq_patches import (
    checkpoint_io,
    distributed,
    errors,
    flags,
    half_precision,
    iterators,
    known_warnings,
    meters,
    paths,
    progress_bar,
    trainer,
    writers,
)
from smoe_mt.fairseq_patches.patch import Patch, Setting, apply_patch
from smoe_mt.fairseq_patches.private import IN_TRANSFORMERS, PRIVATE_USES

__all__ = ["IN_TRANSFORMERS", "PATCHES", "PRIVATE_USES", "SETTINGS", "apply"]

PATCHES: tuple[Patch, ...] = (
    *errors.PATCHES,
    *flags.PATCHES,
    *paths.PATCHES,
    *writers.PATCHES,
    *progress_bar.PATCHES,
    *distributed.PATCHES,
    *trainer.PATCHES,
    *iterators.PATCHES,
    *half_precision.PATCHES,
    *meters.PATCHES,
    *checkpoint_io.PATCHES,
)
SETTINGS: tuple[Setting, ...] = (*known_warnings.SETTINGS, *checkpoint_io.SETTINGS)


def apply() -> None:
    """Put all patches in place and make all settings, for this process. Doing it again changes nothing."""
    for patch in PATCHES:
        apply_patch(patch)
    for setting in SETTINGS:
        setting.switch()
