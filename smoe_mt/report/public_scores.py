"""Scores that others measured of public models and published (`public_scores.json`): what they are, and of which directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json_object
from smoe_mt.json_forms import Named, fits
from smoe_mt.language_codes import is_english
from smoe_mt.languages import LANGUAGES

FILE = Path(__file__).with_suffix(".json")
#: `codes`: other names of languages; `left_out`: languages whose published scores are no measure of the models, and why;
#: `files`: where in the repository `source` a record was read; `commit` there is the beginning of one of `commits`.
FORM = {
    "models": Named(str),
    "test_set": str,
    "sentences": int,
    "source": str,
    "read": str,
    "files": Named(str),
    "commits": [str],
    "signatures": Named(str),
    "codes": Named(str),
    "left_out": Named(str),
    "scores": [{"direction": str, "metric": str, "file": str, "commit": str, "scores": Named(float)}],
}


@dataclass(frozen=True)
class PublicScores:
    """Scores of models on one test set, from 0 to 100.

    models      name -> short title
    source      the repository that published them, read on the day `read` at `commits`
    signatures  sacreBLEU's, by metric (as `smoe_mt.evaluation` names it)
    scores      metric -> direction of codes with three letters -> model -> score
    """

    models: Mapping[str, str]
    test_set: str
    sentences: int
    source: str
    read: str
    commits: tuple[str, ...]
    signatures: Mapping[str, str]
    codes: Mapping[str, str]
    left_out: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]

    def of(self, direction: str, metric: str) -> Mapping[str, float]:
        """The score of each model in a direction as a data folder names it ("nso-en"); empty where none was published."""
        return self.scores.get(metric, {}).get("-".join(self._codes(direction)), {})

    def why_not(self, direction: str) -> str | None:
        """Why the scores that were published of a direction with English are left out; None where they are not."""
        codes = self._codes(direction)
        return next((self.left_out[code] for code in codes if code in self.left_out and "eng" in codes), None)

    def _codes(self, direction: str) -> list[str]:
        return [self._code(language) for language in direction.split("-")]

    def _code(self, language: str) -> str:
        if is_english(language):
            return "eng"
        code = language.removesuffix("_Latn")
        code = self.codes.get(code, code)
        long = (name for name, one in LANGUAGES.items() if len(name) == 3 and one.has_locale(code))
        return next(long, code)


@cache
def public_scores() -> PublicScores:
    """The scores that come with the package. UserError where its file was damaged."""
    remedy = "install smoe_mt again"
    content = read_json_object(FILE, remedy)
    if not fits(content, FORM):
        raise UserError(f"{FILE}: was changed; {remedy}")
    scores: dict[str, Any] = {metric: {} for metric in content["signatures"]}
    for record in content["scores"]:
        scores[record["metric"]].setdefault(record["direction"], {}).update(record["scores"])
    kept = ("models", "test_set", "sentences", "source", "read", "signatures", "codes", "left_out")
    return PublicScores(**{name: content[name] for name in kept}, commits=tuple(content["commits"]), scores=scores)
