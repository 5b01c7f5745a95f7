"""Held-out sets that do not leak, whatever pairs share sentences.

What is held out is a folded string (case, digits and punctuation away) of a language: once a pair's valid or test set
holds it, no pair trains on it, on either side. Which strings are drawn depends on their own hash alone: the English
ones first in the order of SHA-256, so languages share test sentences and neither the order of files nor of lines
matters. A bit of the hash decides whether a string may serve test or valid sets, so that no pair validates on what
another is tested on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.clean import folded
from data_prep.files import say
from data_prep.rows import Row, key_side, languages_of

TEST, VALID = "test", "valid"
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)
CHARACTERS_A_WORD = 2.5
SMALLEST_CORPUS = 3
CORPUS_SHARE = 12

Held = set[tuple[str, str]]


@dataclass(frozen=True)
class SplitOptions:
    """Sentences wanted in each valid and test set (at most a twelfth of a pair's), and how long they must be and may
    be, in words.
    """

    valid_size: int = 500
    test_size: int = 500
    min_test_words: int = 5
    max_test_words: int = 100
    seed: int = 0

    def size(self, split: str) -> int:
        """Sentences wanted in a split."""
        return self.test_size if split == TEST else self.valid_size


@dataclass
class Splits:
    """Rows by pair of each split, what the held-out sets hold as (language, folded string), and the rows left out of
    training for that.
    """

    rows: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)


def word_count(text: str) -> float:
    """Words, by white space; of scripts that use none, by characters."""
    unspaced = len(UNSPACED.findall(text))
    return len(UNSPACED.sub(" ", text).split()) + unspaced / CHARACTERS_A_WORD


def split(
    cleaned: Mapping[str, Sequence[Row]], given: Mapping[str, Mapping[str, Sequence[Row]]], options: SplitOptions
) -> Splits:
    """Train, valid and test rows of each pair.

    ``cleaned`` are rows by pair; ``given[split][pair]`` are ready-made sets: used as they are and held out of training.
    """
    result = Splits({name: {pair: list(rows) for pair, rows in sets.items()} for name, sets in given.items()})
    for name, sets in result.rows.items():
        for pair, given_rows in sets.items():
            _hold(result, name, pair, given_rows)
    keys = {pair: _keys(pair, rows) for pair, rows in cleaned.items()}
    for name in (TEST, VALID):
        sets = result.rows.setdefault(name, {})
        for pair in sorted(cleaned):
            if pair in sets:
                continue
            chosen = _draw(result, name, pair, cleaned[pair], keys[pair], options)
            if chosen:
                sets[pair] = chosen
                _hold(result, name, pair, chosen)
    everything: Held = set().union(*result.held.values())
    train = {pair: _outside(everything, cleaned[pair], keys[pair]) for pair in sorted(cleaned)}
    for pair, rows in cleaned.items():
        drawn = sum(
            len(sets[pair]) for name, sets in result.rows.items() if pair in sets and pair not in given.get(name, {})
        )
        result.shared[pair] = len(rows) - drawn - len(train[pair])
    result.rows["train"] = train
    return result


Keys = list[tuple[tuple[str, str], tuple[str, str]]]


def _keys(pair: str, rows: Iterable[Row]) -> Keys:
    one, other = languages_of(pair)
    return [((one, folded(row.first)), (other, folded(row.second))) for row in rows]


def _hold(result: Splits, name: str, pair: str, rows: Iterable[Row]) -> None:
    held = result.held.setdefault(name, set())
    for keys in _keys(pair, rows):
        held.update(keys)


def _outside(held: Held, rows: Sequence[Row], keys: Keys) -> list[Row]:
    return [row for row, (one, other) in zip(rows, keys) if one not in held and other not in held]


def _draw(result: Splits, name: str, pair: str, rows: Sequence[Row], keys: Keys, options: SplitOptions) -> list[Row]:
    """The first rows in the order of their keys' hashes, one a key; shorter sentences only if there are not enough long
    ones.
    """
    side = key_side(pair)
    wanted = min(options.size(name), max(1, len(rows) // CORPUS_SHARE)) if len(rows) >= SMALLEST_CORPUS else 0
    elsewhere: Held = set().union(*(held for other, held in result.held.items() if other != name))
    candidates: dict[tuple[str, str], int] = {}
    for number, both in enumerate(keys):
        if both[0] not in elsewhere and both[1] not in elsewhere:
            best = candidates.setdefault(both[side], number)
            if rows[number][1:] < rows[best][1:]:
                candidates[both[side]] = number
    ranked = sorted(candidates.items(), key=lambda item: _rank(item[0], rows[item[1]], side, name, options))
    chosen = [number for _, number in ranked[:wanted]]
    short = sum(_is_short(rows[number], side, options) for number in chosen)
    if short:
        enough = f"{options.min_test_words} words or more"
        say(f"{pair}: only {len(chosen) - short} sentences of {enough} for {name}; {short} others added")
    return [rows[number] for number in chosen]


def _rank(key: tuple[str, str], row: Row, side: int, name: str, options: SplitOptions) -> tuple[bool, bool, bytes]:
    digest = hashlib.sha256(f"{options.seed} {key[1]}".encode()).digest()
    others_turn = (digest[0] >= 128) != (name == VALID)
    return _is_short(row, side, options), others_turn, digest


def _is_short(row: Row, side: int, options: SplitOptions) -> bool:
    return not options.min_test_words <= word_count((row.first, row.second)[side]) <= options.max_test_words
