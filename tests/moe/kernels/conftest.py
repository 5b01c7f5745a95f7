"""Triton kernels are interpreted where there is no GPU. That is decided as they are defined, so before anything imports them."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
