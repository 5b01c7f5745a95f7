"""Whether the Triton kernels can compute a block here, and why not."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MULTIPLE = 8  # of both sizes of an expert
MOST_EXPERTS = 128  # that a gate sees: a block of tokens holds all their probabilities at once
LEAST_CAPABILITY = (8, 0)


@lru_cache(maxsize=1)
def installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels are interpreted on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def no_place_for_triton(device: torch.device) -> str | None:
    """What is missing on this machine, None where nothing is."""
    if not installed():
        return "triton is not installed"
    if device.type != "cuda":
        return None if interpreted() else f"the model is on {device.type}, not on a GPU"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is too old: compute capability 8.0 is needed"
    return None


def triton_refuses(dtype: torch.dtype, embed_dim: int, ffn_dim: int, visible: int) -> str | None:
    """Why the kernels do not compute such a block, None where they do."""
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
    if embed_dim % MULTIPLE or ffn_dim % MULTIPLE:
        return f"embed_dim={embed_dim} and ffn_dim={ffn_dim} must be multiples of {MULTIPLE}"
    if visible > MOST_EXPERTS:
        return f"a gate sees {visible} experts, more than {MOST_EXPERTS}"
    return None
