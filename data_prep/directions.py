"""Which pairs of languages are wanted: for training, or kept for zero-shot evaluation alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from data_prep.rows import languages_of
from smoe_mt.errors import UserError
from smoe_mt.language_codes import ENGLISH, is_english, pair_name, parse_pair

ENGLISH_ONLY, ALL = "english", "all"


@dataclass(frozen=True)
class Selection:
    """The values of ``--directions`` and ``--zero-shot``: "english", "all" or pairs. ``None``: what the corpus gives."""

    directions: str | None = None
    zero_shot: str | None = None

    def of_languages(self, languages: Iterable[str], usual: str) -> Pairs:
        """Pairs of languages with each other and with English; UserError for one that is not among them."""
        names = sorted({*languages, ENGLISH})
        return self.of_pairs([pair_name(*both) for both in combinations(names, 2)], usual)

    def of_pairs(self, there: Iterable[str], usual: str = ALL) -> Pairs:
        """What is wanted of the pairs that are there; UserError if that is not there, or nothing."""
        known = sorted(there)
        zero_shot = _chosen(self.zero_shot, known, "--zero-shot")
        wanted = _chosen(self.directions or usual, known, "--directions")
        if self.zero_shot == ALL:  # the others
            zero_shot = [pair for pair in zero_shot if pair not in wanted]
        both = sorted(set(wanted) & set(zero_shot))
        if both and self.directions not in (None, ALL):
            raise UserError(f"{', '.join(both)}: named by --directions and by --zero-shot; take it out of one of them")
        trained = tuple(pair for pair in wanted if pair not in zero_shot)
        if not trained:
            raise UserError(
                f"--directions {self.directions or usual}: there is no such pair (there are {_list(known)})"
            )
        seen = {language for pair in trained for language in languages_of(pair)}
        for pair in zero_shot:
            if unseen := [language for language in languages_of(pair) if language not in seen]:
                raise UserError(
                    f"--zero-shot {pair}: nothing is trained on {unseen[0]}; add a pair of it to --directions"
                )
        return Pairs(trained, tuple(zero_shot))


@dataclass(frozen=True)
class Pairs:
    """Names of pairs to train on, and of those that get valid and test sets alone."""

    trained: tuple[str, ...]
    zero_shot: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Both, sorted."""
        return tuple(sorted({*self.trained, *self.zero_shot}))

    @property
    def languages(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted({language for pair in self.all for language in languages_of(pair)}))


def _chosen(value: str | None, known: list[str], option: str) -> list[str]:
    if value is None:
        return []
    if value == ALL:
        return known
    if value == ENGLISH_ONLY:
        return [pair for pair in known if any(map(is_english, languages_of(pair)))]
    return list(dict.fromkeys(_pair(name.strip(), known, option) for name in value.split(",") if name.strip()))


def _pair(name: str, known: list[str], option: str) -> str:
    languages = parse_pair(name)
    if languages is None or languages[0] == languages[1]:
        raise UserError(f"{option} {name}: not {ENGLISH_ONLY}, {ALL} or two languages such as nso-en")
    there = {language for pair in known for language in languages_of(pair)}
    for language in languages:
        if language not in there:
            raise UserError(
                f"{option} {name}: there is no language '{language}' (there are {', '.join(sorted(there))})"
            )
    if (pair := pair_name(*languages)) not in known:
        raise UserError(f"{option} {name}: there is no text of this pair (there is of {_list(known)})")
    return pair


def _list(pairs: list[str], most: int = 12) -> str:
    return ", ".join(pairs[:most]) + (f" and {len(pairs) - most} more" if len(pairs) > most else "")
