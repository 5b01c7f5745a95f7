"""Whether a batch has padding: asked on a CPU, where that saves work; never on a GPU, where the host would wait for the answer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar

from torch import Tensor

from smoe_mt.context import set_to

_never_asked: ContextVar[bool] = ContextVar("padding is never asked for", default=False)


def never_ask() -> AbstractContextManager[None]:
    """While open, padding is taken for granted on a CPU, too."""
    return set_to(_never_asked, True)


def may_ask(tokens: Tensor) -> bool:
    """Whether looking at the values of `tokens` costs nothing."""
    return tokens.device.type == "cpu" and not _never_asked.get()


def padding_mask(tokens_BT: Tensor, pad: int) -> Tensor | None:
    """bool [B, T], True at padding; None where it is known that there is none."""
    mask_BT = tokens_BT.eq(pad)
    return None if may_ask(tokens_BT) and not bool(mask_BT.any()) else mask_BT
