"""smoe_mt: stratified mixture-of-experts translation models, as a fairseq plugin (``--user-dir``).

Importing it changes nothing and brings no other library: ``smoe_mt.moe`` needs torch alone. fairseq registers the plugin where
it loads it as a user dir; a program calls `register`. ``Translator`` is fetched when it is first asked for, and registers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from smoe_mt.registration import register

if TYPE_CHECKING:
    from smoe_mt.generation.translator import Translator

__version__ = "0.1.0"
__all__ = ["Translator", "register"]


def __getattr__(name: str) -> Any:
    if name == "Translator":
        return importlib.import_module("smoe_mt.generation").Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
