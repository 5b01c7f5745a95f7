"""Text of a direction that a model was not trained on."""

from __future__ import annotations

from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.evaluation.selection import read_text
from smoe_mt.language_codes import is_english
from smoe_mt.tasks.data_folder import split_direction


def read_untrained(task: Any, split: str, direction: str) -> Corpus:
    """Text of a direction that the model was not trained on: the data folder's, or sentences that it has through English.

    These are the source's and the target's translations of the same English sentence, of each different one the first.

    Raises UserError where `split` has neither.
    """
    folder = task.folder
    folder.check_split(split)
    source, target = split_direction(direction)
    if _has(folder, split, source, target):
        return read_text(task, split, direction)
    for english in filter(is_english, folder.languages):
        if _has(folder, split, source, english) and _has(folder, split, target, english):
            sides = [_by_english(folder, split, language, english) for language in (source, target)]
            common = [sentence for sentence in sides[0] if sentence in sides[1]]
            if common:
                sources, references = (tuple(side[sentence] for sentence in common) for side in sides)
                return Corpus(direction, sources, (), references)
    raise UserError(
        f"{folder.path}: {split} has no text for {direction}, nor English sentences that {source} and {target} have both; give "
        "files of your own with --source, --reference and --direction"
    )


def _has(folder: Any, split: str, one: str, other: str) -> bool:
    pairs = (f"{one}-{other}", f"{other}-{one}")
    return any(pair in folder.pairs and folder.has(split, pair) for pair in pairs)


def _by_english(folder: Any, split: str, language: str, english: str) -> dict[str, str]:
    """English sentence -> its first translation."""
    texts = [folder.references(split, f"{language}-{english}", side=side) for side in ("target", "source")]
    found: dict[str, str] = {}
    for sentence, translation in zip(*texts):
        found.setdefault(sentence, translation)
    return found
