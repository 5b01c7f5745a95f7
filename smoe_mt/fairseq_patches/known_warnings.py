"""Warnings that fairseq causes in other libraries and that nobody who trains a model can act on are not shown."""

from __future__ import annotations

import warnings

from smoe_mt.fairseq_patches.patch import Setting

NOISE = (
    # fairseq's loader asks for pinned memory on any machine.
    "'pin_memory' argument is set as true but no accelerator is found",
    # fairseq composes its configuration as in Hydra 1.0.
    r"\s*'.*' is validated against ConfigStore schema with the same name",
    r"hydra\.experimental\.\w+\(\) is no longer experimental",
    "In 'config': Usage of deprecated keyword in package header",
    r"\s*The strict flag in the compose API is deprecated",
    r"\s*The version_base parameter is not specified",
    # fairseq's trainer and attention use forms that torch has renamed.
    r"`torch\.cuda\.amp\.autocast\(args\.\.\.\)` is deprecated",
    "Support for mismatched key_padding_mask and attn_mask is deprecated",
)


def suppress_known_warnings() -> None:
    """Ignore them from now on, in this process and those it forks."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


SETTINGS = (
    Setting(
        "warnings.filters", suppress_known_warnings, "eight warnings that fairseq causes and its user cannot avoid"
    ),
)
