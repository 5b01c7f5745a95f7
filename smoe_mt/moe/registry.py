"""All systems by name. A file of your own registers another one with one call:

    from smoe_mt.moe import System, register_system
    register_system(System(name="mine", ...))

``SMOE_MT_SYSTEMS=mine.py`` in the environment makes every command, and every process that it starts, read that
file. Several entries are separated as in PATH; each is a file or a module that can be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.moe.system import System

VARIABLE = "SMOE_MT_SYSTEMS"
#: In place of a system's name: a model without experts.
DENSE = "none"


class Systems(Mapping[str, System]):
    """name -> record. What the environment names is read when anything is first asked.

    Looking up an unknown name raises UserError, naming the known ones.
    """

    def __init__(self, *known: System) -> None:
        self._known = {system.name: system for system in known}
        self._of_the_package = frozenset(self._known)
        self._read = False
        self._closed = False

    def __getitem__(self, name: str) -> System:
        self._read_environment()
        if name not in self._known:
            raise UserError(self.unknown(name))
        return self._known[name]

    def unknown(self, name: str) -> str:
        """The message for an unknown name."""
        return f"unknown system {name!r}: there are {', '.join(self)} ({VARIABLE}=FILE.py adds those of a file)"

    def is_of_the_package(self, name: str) -> bool:
        """Whether no file of somebody else is needed for it."""
        return name in self._of_the_package

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary's: nothing is raised."""
        self._read_environment()
        return self._known.get(name, default)

    def __contains__(self, name: object) -> bool:
        self._read_environment()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._read_environment()
        return iter(tuple(self._known))

    def __len__(self) -> int:
        self._read_environment()
        return len(self._known)

    def register(self, system: System) -> None:
        """Add a system; the same one again changes nothing.

        Raises:
            UserError: another one of this name, or one that comes too late.
        """
        if self._known.get(system.name) is system:
            return
        if system.name in self._known or system.name == DENSE:
            raise UserError(f"there is a system {system.name!r} already: give yours another name")
        if self._closed:
            raise UserError(
                f"system {system.name!r} comes too late, the settings of models have been made: register it before "
                f"smoe_mt.register() is called, or name its file in {VARIABLE}"
            )
        self._known[system.name] = system

    def close(self) -> None:
        """Read what the environment names, and take no more: settings are about to be made of the systems."""
        self._read_environment()
        self._closed = True

    def _read_environment(self) -> None:
        if self._read:
            return
        self._read = True  # the files that are read now may ask for systems themselves
        for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
            _import(name)


def _import(name: str) -> None:
    """UserError, naming it, for a file or module that cannot be imported."""
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        path = Path(name).absolute()
        if not path.is_file():
            raise UserError(f"{VARIABLE}: there is no file {name}")
        spec = importlib.util.spec_from_file_location(f"smoe_mt_system_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever a user's file may raise
        raise UserError(f"{VARIABLE}: {name} cannot be imported: {type(error).__name__}: {error}") from error
