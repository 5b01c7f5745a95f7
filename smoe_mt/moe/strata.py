"""Parses numbers of experts as users write them: one structure for all blocks, or one for each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def parse_strata(strata: str | int | Sequence[int]) -> tuple[int, ...]:
    """``"4,12"``, ``[4, 12]`` or ``(4, 12)`` as ``(4, 12)``.

    Raises:
        ValueError: not positive integers.
    """
    sizes = _integers(strata)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"strata must be positive integers such as 4,12 (experts per stratum), not {strata!r}")
    return sizes


def strata_of_blocks(strata: Any, blocks: int) -> tuple[tuple[int, ...], ...]:
    """The strata of each of a model's ``blocks``: those of the encoder in layer order, then those of the decoder.

    ``"4,12"`` or ``[4, 12]``: of all of them. ``"4,4;8;2,6"`` or ``[[4, 4], [8], [2, 6]]``: of one after the other.

    Raises:
        ValueError: not positive integers, or strata for another number of blocks.
    """
    if isinstance(strata, str) and ";" in strata:
        parts: list[Any] = strata.strip().split(";")
    elif not isinstance(strata, (str, int)) and any(not isinstance(part, (int, str)) for part in strata):
        parts = list(strata)
    else:
        return (parse_strata(strata),) * blocks
    if len(parts) != blocks:
        raise ValueError(
            f"strata for {len(parts)} blocks, but the model has {blocks}: give one for each, or one for all"
        )
    return tuple(parse_strata(part) for part in parts)


def experts_of_blocks(num_experts: Any, blocks: int) -> tuple[int, ...]:
    """The experts of each of a model's ``blocks``: ``8`` (all of them), or ``"8,4,4,8"`` or ``[8, 4, 4, 8]``.

    Raises:
        ValueError: not positive integers, or numbers for another number of blocks.
    """
    sizes = _integers(num_experts)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"num_experts must be positive integers such as 8 (experts per block), not {num_experts!r}")
    if len(sizes) == 1:
        return sizes * blocks
    if len(sizes) != blocks:
        raise ValueError(
            f"num_experts for {len(sizes)} blocks, but the model has {blocks}: give one for each, or one for all"
        )
    return sizes


def _integers(value: Any) -> tuple[int, ...]:
    """Empty for anything else."""
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) else parts
    try:
        return tuple(int(str(part).strip()) for part in parts)
    except (ValueError, TypeError):
        return ()


def expected_rows(strata: Sequence[int], choices: Callable[[int], float]) -> tuple[float, ...]:
    """Rows of a token in each expert of a stratified block under uniform routing, where a gate that sees n experts makes
    ``choices(n)`` choices, and one of the n, drawn evenly, leads; with one choice they add up to ``expected_visits``."""
    rows = [0.0] * len(strata)
    for i, arriving in enumerate(expected_arrivals(strata)):
        visible = sum(strata[i:])
        for j in range(i, len(strata)):
            rows[j] += arriving * choices(visible) / visible
    return tuple(rows[j] for j, size in enumerate(strata) for _ in range(size))


def expected_arrivals(strata: Sequence[int]) -> list[float]:
    """Share of the tokens that each gate of a stratified block meets under uniform routing."""
    arriving = [1.0] + [0.0] * len(strata)
    for i in range(len(strata)):
        for j in range(i, len(strata)):
            arriving[j + 1] += arriving[i] * strata[j] / sum(strata[i:])
    return arriving[:-1]


def visible_experts(strata: Sequence[int]) -> list[int]:
    """Experts that each gate of a stratified block sees: those of its own stratum and of all later ones."""
    return [sum(strata[gate:]) for gate in range(len(strata))]


def expected_visits(strata: Sequence[int]) -> float:
    """Visits of a token to a stratified block under uniform routing: V(i) = 1 + sum_g P(i -> g) V(g)."""
    return expected_sum(strata, lambda visible: 1)


def expected_sum(strata: Sequence[int], of_visit: Callable[[int], float]) -> float:
    """Of what a visit to a gate amounts to, over the visits of a token under uniform routing.

    of_visit  number of experts that the gate sees -> amount
    """
    ahead = [0.0]  # of the gate after the last stratum, where a token has left
    for i in reversed(range(len(strata))):
        visible = sum(strata[i:])
        ahead.insert(0, of_visit(visible) + sum(size / visible * v for size, v in zip(strata[i:], ahead)))
    return ahead[0]
