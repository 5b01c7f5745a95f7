"""Devices and precisions by the names that a command line gives them."""

from __future__ import annotations

import torch

from smoe_mt.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), or any device that torch knows by name. UserError for others."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, and torch finds no CUDA device here; use auto or cpu")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """fp32, bf16 or fp16. UserError for others."""
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}")
    return DTYPES[name]
