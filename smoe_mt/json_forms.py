"""The form of a value that was read from a JSON file: what is used of it must be there and be of its type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A type; a list of one form, for lists of it; a tuple of forms, for any of them; or an object, by names: "name?" may be missing.
Form = Any


@dataclass(frozen=True)
class Named:
    """An object with any names, whose values all have a form."""

    of: Form


def fits(value: Any, form: Form) -> bool:
    """Whether a value has a form. ``float`` takes what `as_number` makes a number of, ``int`` no true and false."""
    if isinstance(form, tuple):
        return any(fits(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(one, form[0]) for one in value)
    if isinstance(form, Named):
        return isinstance(value, Mapping) and all(fits(one, form.of) for one in value.values())
    if isinstance(form, Mapping):
        return isinstance(value, Mapping) and all(
            fits(value[name.removesuffix("?")], one) if name.removesuffix("?") in value else name.endswith("?")
            for name, one in form.items()
        )
    if form is float:
        return as_number(value) is not None
    return type(value) is form


def as_number(value: Any) -> float | None:
    """A number that can be shown as one; None for anything else, for nan and for what no float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
