"""Compile Triton kernels for a GPU that is not there, by running their launches with a driver that launches nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Compiled:
    """What a kernel needs: bytes of shared memory, registers a thread, bytes spilled to local memory a thread."""

    name: str
    options: dict[str, Any]
    warps: int
    shared: int
    registers: int
    stack: int


class _NoDriver:
    """A CUDA driver for a card of ``capability`` (80, 90), which compiles and never launches."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


@contextmanager
def compiling_for(capability: int, compiled: dict[str, Any]) -> Iterator[None]:
    """Inside, kernels that are launched are compiled instead, into ``compiled`` by name and options."""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = run(self, *args, **kwargs | {"warmup": True})
        options = {k: v for k, v in kwargs.items() if k not in ("grid", "warmup")}
        compiled[f"{self.fn.__name__} {options}"] = (self.fn.__name__, options, kernel)
        return kernel

    before = triton.runtime.driver._active if hasattr(triton.runtime.driver, "_active") else None
    triton.runtime.driver.set_active(_NoDriver(capability))
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run
        if before is not None:
            triton.runtime.driver.set_active(before)


def compile_for(capability: int, launch: Callable[[], object]) -> list[Compiled]:
    """Run ``launch`` and tell what the kernels in it need."""
    compiled: dict[str, Any] = {}
    with compiling_for(capability, compiled):
        launch()
    return [_needs(*found) for found in compiled.values()]


def _needs(name: str, options: dict[str, Any], kernel: Any) -> Compiled:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool) if tool.exists() else shutil.which("cuobjdump") or "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK"))  # type: ignore[index]
    return Compiled(name, options, kernel.metadata.num_warps, kernel.metadata.shared, registers, stack)
