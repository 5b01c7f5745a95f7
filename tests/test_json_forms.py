"""Values of files are of the form that is used of them."""

from __future__ import annotations

from typing import Any

import pytest

from smoe_mt.json_forms import Form, Named, as_number, fits


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (str, "a"),
        (int, 3),
        (float, 3),
        (float, 0.5),
        ([int], []),
        ([int], [1, 2]),
        ((int, type(None)), None),
        ({"a": int}, {"a": 1, "b": "anything"}),
        ({"a?": int}, {}),
        (Named([str]), {"x": ["y"], "z": []}),
    ],
)
def test_what_fits(form: Form, value: Any) -> None:
    assert fits(value, form)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (str, 1),
        (int, True),
        (int, 1.0),
        (float, "1"),
        (float, float("nan")),
        ([int], {"a": 1}),
        ([int], [1, "2"]),
        ((int, type(None)), "x"),
        ({"a": int}, {}),
        ({"a": int}, []),
        ({"a?": int}, {"a": None}),
        (Named(str), ["x"]),
        (Named([str]), {"x": "y"}),
    ],
)
def test_what_does_not(form: Form, value: Any) -> None:
    assert not fits(value, form)


@pytest.mark.parametrize("value", [True, None, "1", [], float("nan"), float("inf"), 10**400])
def test_what_is_no_number_to_show(value: Any) -> None:
    assert as_number(value) is None
