"""Lets torch's safe loading (weights_only) read fairseq's checkpoints, instead of switching it off."""

from __future__ import annotations

import argparse

import torch


def allow_namespaces() -> None:
    """fairseq keeps an ``argparse.Namespace`` in its checkpoints, which torch refuses unless it is named."""
    torch.serialization.add_safe_globals([argparse.Namespace])
