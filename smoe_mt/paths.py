"""Where the plugin, its configs and its scripts lie, in a source checkout as in an installed wheel."""

from __future__ import annotations

import argparse
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


PLACES = {"user-dir": user_dir, "configs": configs, "scripts": scripts}


def _find(name: str) -> Path:
    """`name` beside the package in a source checkout, inside it in a wheel (where package data goes)."""
    checkout = PACKAGE.parent
    if (checkout / "setup.py").is_file() and (checkout / name).is_dir():
        return checkout / name
    if (PACKAGE / name).is_dir():
        return PACKAGE / name
    raise UserError(
        f"this installation of smoe_mt has no {name} folder; install the wheel again or use a source checkout"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``smoe-mt path``."""
    parser.add_argument("place", choices=list(PLACES), help="which folder to print")


def run(args: argparse.Namespace) -> None:
    """Print the folder. Raises UserError where this installation lacks it."""
    print(PLACES[args.place]())
