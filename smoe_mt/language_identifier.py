"""The language that a text is written in, by py3langid (the extra "langid"; its model comes in its wheel).

It errs on short sentences, takes close relatives for each other, and knows about a hundred languages.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.languages import LANGUAGES, library_code


def load_identifier(needed_by: str, probabilities: bool) -> Any:
    """py3langid's identifier; its scores are `probabilities`, or logarithms. UserError, naming what needs it, where it is not
    installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(f"{needed_by} needs py3langid: pip install 'smoe_mt[langid]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=probabilities)


def labels_of(language: str, identifier: Any) -> frozenset[str]:
    """The identifier's labels that are this language: {"no"} for nob. Empty where it does not know the language."""
    known = frozenset(str(label) for label in identifier.nb_classes)
    if language in LANGUAGES:
        return frozenset(label for label in known if LANGUAGES[language].has_locale(label))
    return known & {language, library_code(language)}


@lru_cache(maxsize=1)
def _identifier() -> Any:
    return load_identifier("detecting a language", probabilities=True)


def check() -> None:
    """UserError where py3langid is not installed."""
    _identifier()


def identify(text: str, languages: tuple[str, ...]) -> list[tuple[str, float]]:
    """Those of `languages` that a text may be written in, the likeliest first, each with its probability among all languages.

    Languages that the identifier does not know are left out, and so is the second of two that have one label.
    """
    owners: dict[str, str] = {}
    for language in languages:
        for label in labels_of(language, _identifier()):
            owners.setdefault(label, language)
    found = dict.fromkeys(owners.values(), 0.0)
    for label, probability in _identifier().rank(text):
        if str(label) in owners:
            found[owners[str(label)]] += float(probability)
    return sorted(found.items(), key=lambda each: -each[1])
