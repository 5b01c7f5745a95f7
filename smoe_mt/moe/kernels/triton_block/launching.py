"""Launching kernels with little work for the host.

Triton looks at all arguments of a launch to find the kernel compiled for them. A block makes the same launches again and
again; what was compiled for them is kept here, by whatever the choice depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

OPTIONS = ("num_warps", "num_stages", "maxnreg")
ALIGNMENT = 16  # bytes; kernels are compiled for addresses that are a multiple of it, or for any
#: What was compiled for a launch: the function that launches it, two arguments of that, values of its constants, itself.
_Kept = tuple[Callable[..., None], Any, Any, tuple[Any, ...], Any]
_KEPT: dict[Hashable, dict[str, _Kept]] = {}


class Launcher:
    """Launches the kernels of a gate on the current stream of ``device``.

    key      all that a kernel's compilation depends on: types, sizes that do not change from pass to pass, constants
    tensors  those that were not allocated here: kept kernels expect them at aligned addresses
    """

    def __init__(self, key: Hashable, device: torch.device, tensors: Sequence[Tensor]) -> None:
        self.kept: dict[str, _Kept] | None = None
        if device.type != "cuda" or _hooked() or any(tensor.data_ptr() % ALIGNMENT for tensor in tensors):
            return
        self.kept = _KEPT.setdefault((key, device.index), {})
        self.stream = driver.active.get_current_stream(device.index)

    def __call__(self, site: str, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """``kernel[grid](*args, **constants)``, constants in the kernel's order; ``site`` names the launch within the gate."""
        known = None if self.kept is None else self.kept.get(site)
        if known is None:
            values = tuple(value for name, value in constants.items() if name not in OPTIONS)
            names = [name for name in constants if name not in OPTIONS]
            assert names == list(kernel.arg_names[len(args) :]), f"constants of {site} are not in the kernel's order"
            compiled = kernel[grid](*args, **constants)
            if self.kept is not None:
                self.kept[site] = compiled.run, compiled.function, compiled.packed_metadata, values, compiled
            return
        run, function, metadata, values, _ = known
        run(
            grid[0],
            grid[1] if len(grid) > 1 else 1,
            1,
            self.stream,
            function,
            metadata,
            None,
            None,
            None,
            *args,
            *values,
        )


def _hooked() -> bool:
    """Whether a profiler wants to hear of launches."""
    hooks = (getattr(knobs.runtime, name, None) for name in ("launch_enter_hook", "launch_exit_hook"))
    return any(bool(getattr(hook, "calls", hook)) for hook in hooks)
