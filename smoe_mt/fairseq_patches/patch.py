"""How a patch is written down and put in place: what is replaced, by what, and why."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One attribute of a library that is replaced for this process.

    target       dotted path of the attribute: ``fairseq.trainer.Trainer``
    replacement  given the original, what to put there
    reason       why the library is not used as it is
    signature    parameters of the original that the replacement counts on, in order; None for what is not called
    copies       modules that may have imported the name already; replaced there too, where they are loaded
    target_too   False: replaced in modules that are loaded alone; who imports the name later gets the original
    """

    target: str
    replacement: Callable[[Any], Any]
    reason: str
    signature: tuple[str, ...] | None = None
    copies: tuple[str, ...] = ()
    target_too: bool = True


@dataclass(frozen=True)
class Setting:
    """A setting that a library keeps for the whole process. `target` says of what; `switch` can be called again."""

    target: str
    switch: Callable[[], None]
    reason: str


@dataclass(frozen=True)
class PrivateUse:
    """A part of a library that is no public interface, and the module of smoe_mt that reads or sets it at its own time."""

    target: str
    used_by: str
    reason: str


_replaced: dict[str, tuple[Any, Any]] = {}  # target -> (original, replacement)


def apply_patch(patch: Patch) -> None:
    """Replace the target; doing it again changes nothing."""
    module, _, name = patch.target.rpartition(".")
    owner = resolve(module)
    current = vars(owner)[name]
    known = _replaced.get(patch.target)
    if known is None or not any(current is one for one in known):
        known = _replaced[patch.target] = (current, patch.replacement(_function(current)))
    original, replacement = known
    if patch.target_too:
        setattr(owner, name, replacement)
    for copy in patch.copies:
        loaded = sys.modules.get(copy)
        if loaded is not None and vars(loaded).get(name) is original:
            setattr(loaded, name, replacement)


def _function(value: Any) -> Any:
    """Callable as the attribute is: a static method's function."""
    return value.__func__ if isinstance(value, staticmethod) else value


def resolve(path: str) -> Any:
    """The object at a dotted path; its modules are imported. Raises ImportError or AttributeError where there is none."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not path.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError(f"no module of {path}")
