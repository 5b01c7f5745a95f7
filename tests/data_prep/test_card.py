"""The data card."""

from __future__ import annotations

from typing import Any

from data_prep.card import render

CORPUS: dict[str, Any] = {
    "corpus": "l10n",
    "benchmark": "m4",
    "languages": ["cat", "en", "msa", "nso"],
    "pairs": ["cat-msa", "nso-en"],
    "zero_shot": ["cat-msa"],
    "splits": {
        "train": {"nso-en": 7000},
        "valid": {},
        "test": {"cat-msa": 50, "nso-en": 500},
        "test_udhr": {"nso-en": 60},
    },
    "vocab_size": 4008,
    "sources": [
        {"name": "vlc-l10n", "version": "3.0", "licence": "GPL-2+", "via": "apt-get", "pairs": {"nso-en": 8000}}
    ],
    "missing": ["gone-l10n"],
    "left_out": {"tgl-en": 12},
    "counts": {"nso-en": {"read": 8000, "empty": 0, "copies": 500, "kept": 7500}},
    "spelling": {"nso": {"sentences": 560, "changed": 7, "lost": [["U+200C ZERO WIDTH NON-JOINER", 9]]}},
    "options": {"clean": {"max_chars": 1000}, "max_pairs": None},
}
SIZES = {"train.nso-en.en.bin": 2_000_000, "train.nso-en.nso.bin": 1_000_000, "spm.model": 500_000}


def test_card() -> None:
    card = render(CORPUS, SIZES)
    for line in (
        "- Corpus `l10n`, benchmark m4",
        "- 4 directions: both ways of cat-msa, nso-en",
        "- kept for zero-shot evaluation, without training text: cat-msa",
        "- left out, with too few clean pairs of sentences: tgl-en (12)",
        "- made without what could not be fetched: gone-l10n",
        "| pair | train | valid | test | test_udhr | train in the paper | MB |",
        "| nso-en | 7,000 | 0 | 500 | 60 | 526,000 | 3.0 |",
        "| all | 7,000 | 0 | 550 | 60 | 526,000 | 3.5 |",
        "| pair | read | copies | kept |",
        "| nso | 560 | 1.2% | U+200C ZERO WIDTH NON-JOINER (9) |",
        "- clean.max_chars: 1000",
        "| vlc-l10n | 3.0 | GPL-2+ | apt-get | 8,000 |",
    ):
        assert line in card.splitlines()
