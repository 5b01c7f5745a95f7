"""Resource classes of the benchmarks' languages (paper: section 3): how much training text each has with English.

A direction belongs to the class of its language other than English; means over a class are unweighted, as in the paper.
M4 has no classes.
"""

from __future__ import annotations

from smoe_mt.language_codes import is_english

Classes = dict[str, tuple[str, ...]]

M15: Classes = {
    "high": ("ind", "msa", "isl", "slv", "tgl"),
    "low": ("nso", "run", "nob", "cat", "glg"),
    "very low": ("ssw", "fao", "fur", "ltz", "lim"),
}

# By training pairs with English (Zhang et al. 2020): high from 0.9M on, low below 0.1M; an dz hy mn yo have no test set.
# fmt: off
OPUS100: Classes = {
    "high": (
        "ar", "bg", "bn", "bs", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fa", "fi", "fr", "he", "hr", "hu",
        "id", "is", "it", "ja", "ko", "lt", "lv", "mk", "ms", "mt", "nl", "no", "pl", "pt", "ro", "ru", "si", "sk",
        "sl", "sq", "sr", "sv", "th", "tr", "uk", "vi", "zh",
    ),
    "medium": (
        "af", "as", "az", "br", "cy", "eo", "ga", "gl", "gu", "hi", "ka", "km", "ku", "mg", "ml", "nb", "ne", "nn",
        "pa", "rw", "sh", "ta", "tg", "tt", "ur", "uz", "wa", "xh",
    ),
    "low": (
        "am", "an", "be", "dz", "fy", "gd", "ha", "hy", "ig", "kk", "kn", "ky", "li", "mn", "mr", "my", "oc", "or",
        "ps", "se", "te", "tk", "ug", "yi", "yo", "zu",
    ),
}
# fmt: on

CLASSES: dict[str, Classes] = {"m15": M15, "opus100": OPUS100}


def classes_of(benchmark: str | None) -> Classes:
    """Class -> languages, from high to low; empty for a benchmark without classes, or text that is none."""
    return CLASSES.get(benchmark or "", {})


def belongs(direction: str, languages: tuple[str, ...]) -> bool:
    """Whether a direction is one of these languages' with English."""
    source, target = direction.split("-")
    return (is_english(source) or is_english(target)) and (source in languages or target in languages)
