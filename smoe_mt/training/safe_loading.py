"""Checkpoints are loaded with torch's safety on (weights_only), and a damaged one is a user's error, not a stack trace."""

from __future__ import annotations

import argparse
import pickle
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils

from smoe_mt.errors import UserError


def allow_namespaces() -> None:
    """fairseq keeps an ``argparse.Namespace`` in its checkpoints, which torch refuses unless it is named."""
    torch.serialization.add_safe_globals([argparse.Namespace])


def say_what_is_damaged() -> None:
    """Let fairseq's loading raise a UserError for a file that is no whole checkpoint. Doing it again changes nothing."""
    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "says_what_is_damaged", False):
        return

    @wraps(original)
    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # other bytes in a file make the unpickler raise nearly anything
            raise damaged(path, error) from error

    load.says_what_is_damaged = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load


def damaged(path: str | Path, error: Exception) -> UserError:
    """What to tell about a checkpoint that could not be read."""
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            f"{path}: not loaded, for it is damaged or holds more than tensors and settings ({first_sentence(error)})"
        )
    return UserError(
        f"{path}: not a whole fairseq checkpoint ({first_sentence(error)}); it may be truncated, so take another one"
    )


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error of torch's, which may go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].split(". ")[0] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
