"""Another routing of a trained model while it translates or is analysed, as it is asked for. Nothing slow is imported here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from smoe_mt.errors import UserError, setting

MOST_BIAS = 20.0
DIALS = ("bias", "visits", "mean")
WANTED = "bias=B (a number from -20 to 20), visits=N (a whole number from 1) or mean=M (a number from 1)"


@dataclass(frozen=True)
class Capacity:
    """A setting of the capacity dial: ``bias`` against later strata, the most ``visits`` of a token, or their ``mean``."""

    dial: str
    value: float

    @classmethod
    def of(cls, text: str) -> Capacity:
        """From ``bias=0.5``. UserError for anything else."""
        dial, _, value = text.partition("=")
        try:
            found = cls(dial.strip(), float(value))
        except ValueError:
            found = cls("", 0.0)
        if not found._is_allowed():
            raise UserError(f"{setting('capacity')} is {text[:40]!r}: it must be {WANTED}")
        return found

    def _is_allowed(self) -> bool:
        if self.dial not in DIALS or not math.isfinite(self.value):
            return False
        if self.dial == "bias":
            return abs(self.value) <= MOST_BIAS
        return 1 <= self.value <= 1e6 and (self.dial == "mean" or self.value == int(self.value))

    def __str__(self) -> str:
        return f"{self.dial}={self.value:g}"


@dataclass(frozen=True)
class RoutingOptions:
    """What takes the place of the routing that a model was trained with.

    test_top_k      experts of a token at a gate, in place of as many as in training; weights follow the model's own rule
    test_top_p      the most probable experts whose probabilities sum to this, weights renormalised
    test_threshold  of gates that choose by a threshold (XMoE, top-p): another one
    capacity        a setting of the capacity dial, of models with strata: see ``Capacity``

    Raises:
        UserError: values out of range, or that exclude each other.
    """

    test_top_k: int | None = None
    test_top_p: float | None = None
    test_threshold: float | None = None
    capacity: str | None = None

    def __post_init__(self) -> None:
        k = self.test_top_k
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise UserError(f"{setting('test_top_k')} is {k!r}: it must be a whole number of 1 or more")
        for name in ("test_top_p", "test_threshold"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= 1):
                raise UserError(f"{setting(name)} is {value!r}: it must be a number from 0 to 1")
        given = [name for name in ("test_top_k", "test_top_p", "test_threshold") if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = map(setting, given[:2])
            raise UserError(f"{first} and {second} both say how many experts a token takes: leave out one of them")
        if self.capacity is not None:
            if not isinstance(self.capacity, str):
                raise UserError(f"{setting('capacity')} is {self.capacity!r}: it must be {WANTED}")
            object.__setattr__(self, "capacity", str(Capacity.of(self.capacity)))  # one spelling for one setting

    @property
    def dial(self) -> Capacity | None:
        """The setting of the capacity dial."""
        return None if self.capacity is None else Capacity.of(self.capacity)

    @property
    def changes_nothing(self) -> bool:
        """Whether a model keeps its own routing."""
        return not self.given()

    def given(self) -> dict[str, Any]:
        """What is asked for, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}
