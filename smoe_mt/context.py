"""Values that hold within a ``with`` block, in the thread or task that opened it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def set_to(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """While open, `variable` has `value`; then what it had before."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
