"""Where text comes from. A new corpus is a new file here and one line in ``CORPORA``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_prep.corpora.base import Corpus
from data_prep.corpora.l10n import l10n
from data_prep.corpora.tsv import tsv
from smoe_mt.errors import UserError

CORPORA: dict[str, Callable[[str, str | None, Path, bool], Corpus]] = {"l10n": l10n, "tsv": tsv}


def open_corpus(spec: str, benchmark: str | None, cache: Path, refresh: bool) -> Corpus:
    """The corpus of a ``--corpus`` value, "name" or "name:where"; UserError if there is no such corpus."""
    name, _, where = spec.partition(":")
    if name not in CORPORA:
        raise UserError(
            f"unknown corpus '{spec}': give one of {', '.join(sorted(CORPORA))} (for your own text: tsv:DIR)"
        )
    return CORPORA[name](where, benchmark, cache, refresh)
