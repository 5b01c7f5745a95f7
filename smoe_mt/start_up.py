"""Importing what a command needs, in less time."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from types import ModuleType


def import_at_once(name: str) -> ModuleType:
    """The module, imported without collections of garbage.

    An import makes hundreds of thousands of functions and classes, none of them garbage: to look through them again and again
    takes a seventh of a start. What is there after the import stays, so later collections pass over it.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else bindings of Triton report frozen objects at exit
        gc.enable()
