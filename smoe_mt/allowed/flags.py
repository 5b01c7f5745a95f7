"""argparse types: a flag's value is checked while it is parsed, and a wrong one is reported in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from smoe_mt.allowed.kinds import Kind, Path, Real, Whole, shown
from smoe_mt.devices import DEVICE
from smoe_mt.paths import expanded


def of(kind: Kind) -> Callable[[str], Any]:
    """The ``type=`` of an argument that takes values of this kind."""

    def read(text: str) -> Any:
        try:
            return kind.read(text)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{shown(text)!r} must be {kind.wanted}") from None

    return read


def device(text: str) -> str:
    """auto, cpu, cuda or cuda:N."""
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{shown(text)!r} must be auto, cpu or cuda (cuda:1 for the second GPU)")
    return text


def path(text: str) -> str:
    """A path, with the home folder for ``~``. ``${`` is refused: OmegaConf, through which fairseq hands paths on, takes it for a
    reference.
    """
    if "${" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} must be a path without ${{")
    return expanded(str(of(Path())(text)))


def file(text: str) -> str:
    """As `path`, of a file or folder that fairseq never sees: it may have any name."""
    return expanded(text)


count = of(Whole(0, 10**9))
positive_int = of(Whole(1, 10**9))
positive_float = of(Real(0, 1e30, above=True))
seed = of(Whole(0, 2**31 - 1))
beam = of(Whole(1, 1000))
processes = of(Whole(1, 1024))
ranks = of(Whole(1, 10**6))
vocabulary_size = of(Whole(1, 10**7))
