"""What a setting may be."""

from __future__ import annotations

from typing import Any, List, Optional  # noqa: UP035  (as fairseq's dataclasses have them)

import pytest

from smoe_mt import register
from smoe_mt.ranges import CRITERION, MODEL, PROBABILITY, TASK, Range, kinds_of, problem, ranges_of, shown

register()

from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.tasks.config import ManyToManyTranslationConfig

OURS = [
    (dataclass, ranges_of(dataclass, table))
    for dataclass, table in (
        (SMoETransformerConfig, MODEL),
        (ManyToManyTranslationConfig, TASK),
        (StratifiedRoutingConfig, CRITERION),
    )
]


@pytest.mark.parametrize("dataclass, ranges", OURS)
def test_defaults_are_in_range(dataclass: type, ranges: dict[str, Range]) -> None:
    defaults = {name: value for name, value in vars(dataclass()).items() if "${" not in str(value)}
    for name, kind in kinds_of(dataclass).items():
        if name in defaults:
            assert problem(kind, defaults[name], ranges.get(name)) is None, name


@pytest.mark.parametrize("dataclass, ranges", OURS)
def test_every_number_has_a_range_and_every_range_a_setting(dataclass: type, ranges: dict[str, Range]) -> None:
    numbers = {name for name, kind in kinds_of(dataclass).items() if kind in (int, float, Optional[float])}  # noqa: UP045
    assert set(ranges) == numbers - {"seed"}


@pytest.mark.parametrize(
    "kind, value, allowed",
    [
        (int, 3, Range(1, 3)),
        (float, 1, PROBABILITY),
        (bool, False, None),
        (Optional[float], None, PROBABILITY),  # noqa: UP045
        (List[float], [0.1, 0.2], None),  # noqa: UP006
        (str, "/a folder/ü", None),
        (Any, object(), None),
    ],
)
def test_what_a_setting_may_be(kind: Any, value: Any, allowed: Range | None) -> None:
    assert problem(kind, value, allowed) is None


@pytest.mark.parametrize(
    "kind, value, allowed, says",
    [
        (int, 4, Range(1, 3), "from 1 to 3, not 4"),
        (int, 1.0, None, "a whole number"),
        (int, True, None, "a whole number"),
        (int, 10**400, None, "more than 30 digits"),
        (float, "0.1", None, "a number, not '0.1'"),
        (float, float("nan"), None, "a finite number"),
        (float, float("inf"), None, "a finite number"),
        (float, 10**400, None, "more than 30 digits"),
        (float, 1.0, Range(0, 1, open_high=True), "from 0 to below 1"),
        (float, 0.0, Range(0, 1, open_low=True), "above 0 to 1"),
        (bool, 1, None, "true or false"),
        (Optional[float], 2.0, PROBABILITY, "from 0 to 1"),  # noqa: UP045
        (List[float], [0.1, "x"], None, "a number, not 'x'"),  # noqa: UP006
        (List[float], (0.1,), None, "a list"),  # noqa: UP006
        (str, None, None, "text"),
        (str, "a\x1b[31m", None, "printable"),
        (str, "x" * 5000, None, "printable"),
        (kinds_of(SMoETransformerConfig)["activation_fn"], "eval", None, "one of relu"),
        (kinds_of(SMoETransformerConfig)["moe"], ["none"], None, "not a list"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(kind: Any, value: Any, allowed: Range | None, says: str) -> None:
    found = problem(kind, value, allowed)
    assert found is not None and says in found and found.isprintable() and len(found) < 250


def test_a_value_is_shown_without_what_a_terminal_obeys() -> None:
    assert shown("\x1b]0;x\x07" * 100).isprintable() and len(shown("x" * 1000)) == 60
