"""How many experts each stratum of a block has, as people write it."""

from __future__ import annotations

from collections.abc import Sequence


def parse_strata(strata: str | int | Sequence[int]) -> tuple[int, ...]:
    """``"4,12"``, ``[4, 12]`` or ``(4, 12)`` as ``(4, 12)``.

    Raises:
        ValueError: not positive integers.
    """
    parts = strata.strip("[]() ").split(",") if isinstance(strata, str) else strata
    parts = [parts] if isinstance(parts, int) else parts
    try:
        sizes = tuple(int(str(part).strip()) for part in parts)
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"strata must be positive integers such as 4,12 (experts per stratum), not {strata!r}")
    return sizes
