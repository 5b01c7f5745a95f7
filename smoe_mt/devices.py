"""Devices and precisions by the names that a command line gives them. torch is imported when one is picked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from smoe_mt.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
#: Our name -> torch's.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
INT8 = "int8"  # of products in translating on a CPU; the weights themselves are float32


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), cpu, cuda or cuda:N. UserError for others."""
    if not isinstance(name, str) or not DEVICE.fullmatch(name):
        raise UserError(f"unknown device {name!r}: use auto, cpu or cuda")
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, and torch finds no CUDA device here; use auto or cpu")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """fp32, bf16 or fp16. UserError for others."""
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}")
    import torch

    found: torch.dtype = getattr(torch, DTYPES[name])
    return found
