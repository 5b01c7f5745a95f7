"""Where text comes from. A new corpus is a new file here and one line in ``CORPORA``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from data_prep.corpora.base import Corpus, Request
from data_prep.corpora.l10n import l10n
from data_prep.corpora.moses import moses
from data_prep.corpora.public import public
from data_prep.corpora.tsv import tsv
from smoe_mt.errors import UserError

CORPORA: dict[str, Callable[[Request], Corpus]] = {"l10n": l10n, "public": public, "tsv": tsv, "moses": moses}


def open_corpus(spec: str, request: Request) -> Corpus:
    """The corpus of a ``--corpus`` value, "name" or "name:where"; UserError if there is no such corpus."""
    name, _, where = spec.partition(":")
    if name not in CORPORA:
        raise UserError(
            f"unknown corpus '{spec}': give one of {', '.join(sorted(CORPORA))} (for your own text: tsv:DIR or moses:DIR)"
        )
    return CORPORA[name](replace(request, where=where))
