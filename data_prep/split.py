"""Held-out sets that do not leak, whatever pairs share sentences.

What is held out is a folded string (case, digits and punctuation away) of a language: once a pair's valid or test set
holds it, no pair trains on it, on either side. Which strings are drawn depends on their own hash alone: the English
ones first in the order of SHA-256, so languages share test sentences and neither the order of files nor of lines
matters. A bit of the hash decides whether a string may serve test or valid sets, so that no pair validates on what
another is tested on.

Strings are known by 64 bits of their hash (FACTS, a record a row, beside the text), which are read in blocks: memory
holds what is held out and a byte a row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path

import numpy as np

from data_prep.clean import folded
from data_prep.columns import read_blocks
from data_prep.files import say
from data_prep.rows import Row, hash_of, key_side, languages_of, read_rows, write_rows
from smoe_mt.processes import ordered_map

TEST, VALID = "test", "valid"
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)
CHARACTERS_A_WORD = 2.5
SMALLEST_CORPUS = 3
CORPUS_SHARE = 12


@dataclass(frozen=True)
class SplitOptions:
    """Sentences wanted in each valid and test set (at most a twelfth of a pair's), and how long they must be and may
    be, in words. ``overlap``: what leaves training, "string": rows of which either side is held out, "pair": only those
    of which both are.
    """

    valid_size: int = 500
    test_size: int = 500
    min_test_words: int = 5
    max_test_words: int = 100
    seed: int = 0
    overlap: str = "string"

    def size(self, split: str) -> int:
        """Sentences wanted in a split."""
        return self.test_size if split == TEST else self.valid_size


ROWS_FILE, FACTS_FILE = "rows.tsv", "facts"
#: Of a row: hashes of its two folded strings with their languages, the place of its key in the draw, and whether its
#: length is not that of a sentence to be held out.
FACTS = np.dtype([("first", "u8"), ("second", "u8"), ("rank", "u8"), ("short", "?")])
FIRST_BIT = np.uint64(1 << 63)
SPARE = 64


@dataclass(frozen=True)
class Cleaned:
    """The clean rows of a pair: a folder with rows.tsv and facts, and how many there are."""

    folder: Path
    count: int

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        return read_rows(self.folder / ROWS_FILE)

    def facts(self) -> Iterator[np.ndarray]:
        """FACTS[at most a block] of the rows."""
        return read_blocks(self.folder / FACTS_FILE, FACTS)


@dataclass
class Splits:
    """How many rows each split has by pair, the rows left out of training for what is held out and for the limit, and
    the hashes uint64 of what is held out.
    """

    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)
    held: dict[str, np.ndarray] = field(default_factory=dict)

    def outside(self, split: str | None) -> np.ndarray:
        """Sorted hashes that any split other than the given one holds."""
        return np.unique(np.concatenate([_NONE, *(held for name, held in self.held.items() if name != split)]))


_NONE = np.empty(0, dtype=np.uint64)


def facts_of(pair: str, row: Row, options: SplitOptions) -> tuple[int, int, int, bool]:
    """A row's FACTS."""
    strings = folded(row.first), folded(row.second)
    first, second = (hash_of(language, string) for language, string in zip(languages_of(pair), strings))
    side = key_side(pair)
    rank = hashlib.sha256(f"{options.seed} {strings[side]}".encode()).digest()[:8]
    words = word_count((row.first, row.second)[side])
    short = not options.min_test_words <= words <= options.max_test_words
    return first, second, int.from_bytes(rank, "big"), short


def word_count(text: str) -> float:
    """Words, by white space; of scripts that use none, by characters."""
    unspaced = len(UNSPACED.findall(text))
    return len(UNSPACED.sub(" ", text).split()) + unspaced / CHARACTERS_A_WORD


def split(
    cleaned: Mapping[str, Cleaned],
    given: Mapping[str, Mapping[str, Path]],
    options: SplitOptions,
    folder: Path,
    most: int | None = None,
    untrained: Collection[str] = (),
    workers: int = 1,
) -> Splits:
    """Write ``folder/{split}.{pair}.tsv``, with at most ``most`` training rows a pair and none of ``untrained`` pairs.

    ``given[split][pair]`` are files of ready-made sets: used as they are and held out of training.
    """
    result = Splits()
    for name, sets in given.items():
        for pair, path in sets.items():
            _add(result, name, pair, list(read_rows(path)), options, folder)
    for name in (TEST, VALID):
        for pair in sorted(cleaned):
            if pair not in given.get(name, {}):
                _add(result, name, pair, _draw(result, name, pair, cleaned[pair], options), options, folder)
    common = _Training(result.outside(None), options.overlap, folder, most, frozenset(untrained))
    for pair, left, wanted in ordered_map(_write_training, sorted(cleaned.items()), common, workers):
        drawn = sum(sizes.get(pair, 0) for name, sizes in result.sizes.items() if pair not in given.get(name, {}))
        result.shared[pair] = cleaned[pair].count - drawn - left
        if pair not in untrained:
            result.beyond[pair] = left - wanted
            result.sizes.setdefault("train", {})[pair] = wanted
    return result


@dataclass(frozen=True)
class _Training:
    """What decides about the training rows of all pairs."""

    held: np.ndarray
    overlap: str
    folder: Path
    most: int | None
    untrained: frozenset[str]


def _write_training(task: tuple[str, Cleaned], common: _Training) -> tuple[str, int, int]:
    """A pair, how many of its rows nothing holds out, and how many of them were written as training text."""
    pair, text = task
    free = _free(text, common.held, common.overlap)
    left = int(free.sum())
    wanted = 0 if pair in common.untrained else left if common.most is None else min(left, common.most)
    free[free] = _evenly_spaced(left, wanted)
    if wanted:
        write_rows(common.folder / f"train.{pair}.tsv", compress(text.rows(), free))
    return pair, left, wanted


def _evenly_spaced(count: int, wanted: int) -> np.ndarray:
    """Mask bool[count] of ``wanted`` places from all over."""
    mask = np.zeros(count, dtype=bool)
    mask[np.arange(wanted) * count // max(wanted, 1)] = True
    return mask


def _add(result: Splits, name: str, pair: str, rows: list[Row], options: SplitOptions, folder: Path) -> None:
    if not rows:
        return
    write_rows(folder / f"{name}.{pair}.tsv", rows)
    result.sizes.setdefault(name, {})[pair] = len(rows)
    hashes = [number for row in rows for number in facts_of(pair, row, options)[:2]]
    held = result.held.get(name, _NONE)
    result.held[name] = np.unique(np.concatenate([held, np.array(hashes, dtype=np.uint64)]))


def _free(text: Cleaned, held: np.ndarray, overlap: str) -> np.ndarray:
    """bool[rows]: what may be trained on, or drawn."""
    free = [np.empty(0, dtype=bool)]
    for block in text.facts():
        first, second = np.isin(block["first"], held), np.isin(block["second"], held)
        free.append(~(first | second) if overlap == "string" else ~(first & second))
    return np.concatenate(free)


def _draw(result: Splits, name: str, pair: str, text: Cleaned, options: SplitOptions) -> list[Row]:
    """The first rows in the order of their keys' hashes, one a key; shorter sentences only if there are not enough long
    ones.
    """
    size = min(options.size(name), max(1, text.count // CORPUS_SHARE)) if text.count >= SMALLEST_CORPUS else 0
    if not size:
        return []
    free = _free(text, result.outside(name), "string")
    best = _best_of_each_key(text, free, _candidates(text, free, name, 2 * size + SPARE), name)
    ranked = sorted(best.items(), key=lambda item: (item[1][1], item[0]))[:size]
    short = sum(is_short for _, (_, is_short) in ranked)
    if short:
        enough = f"{options.min_test_words} words or more"
        say(f"{pair}: only {len(ranked) - short} sentences of {enough} for {name}; {short} others added")
    return [row for _, (row, _) in ranked]


def _order(block: np.ndarray, name: str) -> np.ndarray:
    """uint64: places in the draw of a split; the first bit of the hash says whose turn a key is."""
    ranks = block["rank"]
    return ranks ^ FIRST_BIT if name == VALID else ranks


def _candidates(text: Cleaned, free: np.ndarray, name: str, most: int) -> np.ndarray:
    """Sorted places of the first keys in the draw, of those with long and of those with short rows ``most`` each."""
    first = [_NONE, _NONE]
    start = 0
    for block in text.facts():
        places, here = _order(block, name), free[start : start + len(block)]
        start += len(block)
        for short in (False, True):
            found = places[here & (block["short"] == short)]
            first[short] = np.unique(np.concatenate([first[short], found]))[:most]
    return np.unique(np.concatenate(first))


def _best_of_each_key(
    text: Cleaned, free: np.ndarray, candidates: np.ndarray, name: str
) -> dict[int, tuple[Row, bool]]:
    """By place in the draw: the row of the key that comes first in the alphabet, and whether it is short."""
    best: dict[int, tuple[Row, bool]] = {}
    rows = text.rows()
    start = 0
    for block in text.facts():
        places = _order(block, name)
        chosen = free[start : start + len(block)] & np.isin(places, candidates)
        start += len(block)
        for number, row in enumerate(islice(rows, len(block))):
            if chosen[number]:
                place = int(places[number])
                if place not in best or row[1:] < best[place][0][1:]:
                    best[place] = row, bool(block["short"][number])
    return best
