"""Paths that a person gave; and the folders of the plugin, its configs and its scripts, in a source checkout and in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

from smoe_mt.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def user_dir() -> Path:
    """The folder to give to fairseq's ``--user-dir``."""
    return PACKAGE


def configs() -> Path:
    """The folder to give to ``fairseq-hydra-train --config-dir``."""
    return _find("configs")


def scripts() -> Path:
    """The folder of the shell scripts."""
    return _find("scripts")


def expanded(path: str) -> str:
    """A path with the home folder in place of a leading ``~`` or ``~name``, which a shell leaves alone behind ``=``. UserError for
    a zero byte in it, which no path has.
    """
    if "\0" in path:
        raise UserError(f"{path!a}: no path holds a zero byte")
    return os.path.expanduser(path)


def check_utf8(path: str | Path) -> None:
    """UserError for a path that libraries in C++ (torch, SentencePiece) cannot open."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: a name that is not UTF-8; rename it, or give a link to it") from error


def _find(name: str) -> Path:
    """`name` next to the package in a source checkout, inside it in a wheel (where package data goes)."""
    checkout = PACKAGE.parent
    if (checkout / "setup.py").is_file() and (checkout / name).is_dir():
        return checkout / name
    if (PACKAGE / name).is_dir():
        return PACKAGE / name
    raise UserError(
        f"this installation of smoe_mt has no {name} folder; install the wheel again or use a source checkout"
    )
