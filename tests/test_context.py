"""Values within a with block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from smoe_mt.context import set_to

NUMBER: ContextVar[int] = ContextVar("number", default=0)


def test_a_value_holds_inside_also_after_an_error() -> None:
    with set_to(NUMBER, 1):
        with pytest.raises(ZeroDivisionError), set_to(NUMBER, 2):
            assert NUMBER.get() == 2
            raise ZeroDivisionError
        assert NUMBER.get() == 1
    assert NUMBER.get() == 0


def test_other_threads_do_not_see_it() -> None:
    with set_to(NUMBER, 1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(NUMBER.get).result() == 0
