"""The range of every setting; its type is in its dataclass. The range of a system's own option is in the option's metadata.

The table applies to a user's settings and to those in files from elsewhere. Upper bounds are far above the models of today, and
keep a mistake or a hostile file from filling the memory.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin

LONGEST_TEXT = 4096  # characters of a setting; paths are no longer
MOST_BLOCKS, MOST_EXPERTS = 2_000, 65_536  # of a model, of a block


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `open_low` or `open_high` leaves the end out."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:,}" if self.open_low else f"from {self.low:,}"
        return f"{low} to {'below ' if self.open_high else ''}{self.high:,}"


ANY_INT = Range(-(2**63), 2**63 - 1)
ANY_FLOAT = Range(-1e300, 1e300)
COUNT = Range(0, 10**12)
PROBABILITY = Range(0, 1)
DROPOUT = Range(0, 1, open_high=True)
DIMENSION, FFN_DIMENSION = Range(1, 65_536), Range(1, 1_048_576)
LAYERS, HEADS, POSITIONS = Range(1, 1_000), Range(1, 1_024), Range(1, 65_536)

MODEL: Mapping[str, Range] = {
    **{f"{side}_embed_dim": DIMENSION for side in ("encoder", "decoder")},
    **{f"{side}_ffn_embed_dim": FFN_DIMENSION for side in ("encoder", "decoder")},
    **{f"{side}_layers": LAYERS for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")},
    **{f"max_{side}_positions": POSITIONS for side in ("source", "target")},
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "eom_p"), DROPOUT),
    "moe_freq": Range(1, 1_000),
    "top_k": Range(1, MOST_EXPERTS),
    "capacity_factor": Range(0, 1e6),
    "shared_experts": Range(0, 1_024),
    "balance_bias": Range(0, 1),
}
TASK: Mapping[str, Range] = {
    "sampling_temperature": Range(0, 1e6, open_low=True),
    **dict.fromkeys(("epoch_pairs", "tokens_per_update", "max_nonfinite_updates", "eval_bleu_sentences"), COUNT),
    "batch_shapes": Range(0, 1_024),
    **dict.fromkeys(("expert_parallel_size", "expert_parallel_chunks"), Range(1, MOST_EXPERTS)),
    **{f"max_{side}_positions": POSITIONS for side in ("source", "target")},
    "eval_bleu_beam": Range(1, 1_000),
    "eval_bleu_max_len_a": Range(0, 1_000),
    "eval_bleu_max_len_b": Range(0, 65_536),
}
CRITERION: Mapping[str, Range] = {
    "label_smoothing": DROPOUT,
    "ignore_prefix_size": COUNT,
    "balance_weight": Range(0, 1e6),
    "z_weight": Range(0, 1e6),
}


def ranges_of(dataclass_: type, table: Mapping[str, Range]) -> dict[str, Range]:
    """The table, and the ranges that fields declare themselves, as the options of systems do (metadata ``range``)."""
    declared = {
        field.name: field.metadata["range"] for field in dataclasses.fields(dataclass_) if "range" in field.metadata
    }
    return {**table, **{name: Range(*ends) for name, ends in declared.items()}}


def kinds_of(dataclass_: type) -> dict[str, Any]:
    """Setting -> the type that its dataclass gives it."""
    return {field.name: field.type for field in dataclasses.fields(dataclass_) if field.name != "_name"}


def problem(kind: Any, value: Any, allowed: Range | None = None) -> str | None:
    """What is wrong with the value of a setting of this type, such as "must be a whole number, not 'x'"; None for nothing.

    `kind`: an annotation of fairseq's dataclasses: bool, int, float, str, an Enum of choices, Any; List or Optional of those.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = [one for one in get_args(kind) if one is not type(None)]
        return None if value is None else problem(kind, value, allowed)
    if origin is list:
        if not isinstance(value, list):
            return f"must be a list, not {shown(value)}"
        return next((wrong for one in value if (wrong := problem(get_args(kind)[0], one, allowed))), None)
    if kind is bool:
        return None if isinstance(value, bool) else f"must be true or false, not {shown(value)}"
    if kind in (int, float):
        return _problem_of_number(kind, value, allowed)
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(one.value) for one in kind]
        known = isinstance(value, str) and value in choices
        return None if known else f"must be one of {', '.join(choices)}, not {shown(value)}"
    if kind is str:
        return problem_of_text(value)
    return None


def _problem_of_number(kind: type, value: Any, allowed: Range | None) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return f"must be a {'whole ' if kind is int else ''}number, not {shown(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    allowed = allowed or (ANY_INT if kind is int else ANY_FLOAT)
    return None if value in allowed else f"must be {allowed}, not {shown(value)}"


def problem_of_text(value: Any) -> str | None:
    """What is wrong with a setting that is text; None for nothing."""
    if not isinstance(value, str):
        return f"must be text, not {shown(value)}"
    if len(value) > LONGEST_TEXT or not value.isprintable():
        return f"must be printable text of at most {LONGEST_TEXT:,} characters"
    return None


def shown(value: Any) -> str:
    """A value in an error message: short, and without what a terminal would obey."""
    if not isinstance(value, (str, int, float, bool, type(None))):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
