"""What a block does besides its tensors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache


@dataclass(frozen=True)
class Settings:
    """Everything that kernels are told besides tensors.

    first_experts    number of the first expert that each gate sees
    strata           tokens go from gate to gate, with norm and residual; else there is one gate and y replaces x
    capacity_factor  0: no limit
    release          the released code's capacity, and its residual from the second gate on
    renormalise      weights of two choices are divided by their sum; else they are the gate's probabilities
    z                the z-loss is computed, too
    expert_dropout   on each row of the experts' outputs
    mask             probability of leaving out a slot; ``scale`` multiplies all weights
    """

    first_experts: tuple[int, ...]
    top_k: int
    strata: bool
    capacity_factor: float
    release: bool
    activation: str
    renormalise: bool = True
    z: bool = False
    gumbel: bool = False
    dropout: float = 0.0
    expert_dropout: float = 0.0
    mask: float = 0.0
    scale: float = 1.0
    epsilon: float = 1e-5

    @property
    def capacity(self) -> tuple[int, int]:
        """The capacity factor as a fraction."""
        fraction = Fraction(self.capacity_factor).limit_denominator(10000)
        return fraction.numerator, fraction.denominator

    def text(self) -> str:
        """As operators take it."""
        return json.dumps(asdict(self))

    @staticmethod
    @cache
    def of(text: str) -> Settings:
        """The inverse of ``text``."""
        values = json.loads(text)
        return Settings(**values | {"first_experts": tuple(values["first_experts"])})
