"""smoe_mt: stratified mixture-of-experts translation models, as a fairseq plugin (``--user-dir``).

``smoe_mt.moe`` needs torch alone, so importing the package brings fairseq only where it is already at work. ``Translator`` is
fetched when it is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoe_mt.generation.translator import Translator

__version__ = "0.1.0"
__all__ = ["Translator", "register"]


def register() -> None:
    """Register task, model and criterion with fairseq; doing it again changes nothing."""
    for package in ("tasks", "models", "criterions"):
        importlib.import_module(f"smoe_mt.{package}")
    importlib.import_module("smoe_mt.fairseq_patches").put_shims_in_place()


def __getattr__(name: str) -> Any:
    if name == "Translator":
        return importlib.import_module("smoe_mt.generation").Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "fairseq" in sys.modules:
    register()
