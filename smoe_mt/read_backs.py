"""Finds what the host waits for: operations whose result, or whose size, is read back from the device."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import fairseq
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smoe_mt.paths import PACKAGE

#: Operators that return a value to the host, or a tensor whose size depends on values.
READS = (
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
)
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
PACKAGES = (PACKAGE, Path(str(fairseq.__file__)).parent)
# It reads a shape by an operator, whose result lies on the CPU wherever the model is.
HARMLESS = "sinusoidal_positional_embedding.py"


class ReadBacks(TorchDispatchMode):
    """While open, notes what reads back from a device of a type, such as "aten.nonzero in smoe_mt/moe/traversal.py:77"."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._reads(func, args, kwargs):
            place = _caller()
            if HARMLESS not in place:
                self.found.append(f"{func.overloadpacket} in {place}")
        return func(*args, **kwargs)

    def _reads(self, func: Any, args: Any, kwargs: Any) -> bool:
        name = func.overloadpacket.__name__
        copies = name in ("_to_copy", "copy_")
        if not copies and name not in READS and name not in INDEXING:
            return False
        there = [
            one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.device.type == self._device
        ]
        if not there:
            return False
        if name == "_to_copy":
            target = kwargs.get("device")
            return target is not None and torch.device(target).type != self._device
        if name == "copy_":
            return bool(args[0].device.type != self._device)
        masks = [one for one in there if one.dtype in (torch.bool, torch.uint8)]
        return name in READS or any(mask is not args[0] for mask in masks)


def _caller() -> str:
    """The innermost line of ours or of fairseq's that is running, as package/file.py:line."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        package = next((folder for folder in PACKAGES if file.is_relative_to(folder)), None)
        if package is not None:
            return f"{file.relative_to(package.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return "the backward pass"
