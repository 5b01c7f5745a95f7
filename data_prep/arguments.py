"""Arguments of ``smoe-mt prepare``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from data_prep.spm import SpmOptions
from smoe_mt.allowed import flags
from smoe_mt.allowed.kinds import Real
from smoe_mt.paper.benchmarks import BENCHMARKS
from smoe_mt.processes import available_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare``."""
    parser.epilog = """examples:
  smoe-mt prepare --corpus tsv:my_text --out data/mine
  smoe-mt prepare --corpus moses:my_text --directions sv-fi --vocab-size 16000 --out data/mine
  smoe-mt prepare --corpus l10n --benchmark m4 --out data/m4"""
    _add_what(parser)
    _add_filters(parser)
    _add_held_out(parser)
    _add_vocabulary(parser)
    how = parser.add_argument_group("running")
    how.add_argument(
        "--workers", type=flags.processes, default=available_cores(), help="processes (all cores: %(default)s)"
    )
    how.add_argument(
        "--cache", type=flags.file, default="~/.cache/smoe_mt", help="where downloads are kept (%(default)s)"
    )
    how.add_argument("--refresh", action="store_true", help="download anew even what is in the cache")
    how.add_argument(
        "--dry-run", action="store_true", help="print what --corpus public would download, without a network, and stop"
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("text")
    what.add_argument(
        "--corpus",
        required=True,
        metavar="l10n|public|tsv:DIR|moses:DIR",
        help="where text comes from: l10n (catalogues and manuals of Debian and npm packages), public (OPUS-100, "
        "FLORES-200, NLLB's public primary bitexts), your SRC-TGT.tsv files (optional: SRC-TGT.valid.tsv, .test.tsv), or "
        "your line-aligned files train.SRC-TGT.SRC and train.SRC-TGT.TGT (optional: valid, dev, test); files may be compressed "
        "(.gz, .xz, .zst)",
    )
    what.add_argument(
        "--benchmark",
        metavar="|".join(BENCHMARKS),
        help="take the languages and vocabulary size of this benchmark; needed by l10n and public",
    )
    what.add_argument("--out", required=True, type=flags.file, metavar="DATA", help="the data folder to make")
    what.add_argument(
        "--directions",
        metavar="english|all|LIST",
        help="pairs to train on, both ways each: those with English, all, or a list such as nso-en,cat-msa (default: english for "
        "benchmarks, else all pairs of the corpus); l10n joins pairs without English by their English strings",
    )
    what.add_argument(
        "--zero-shot",
        metavar="all|LIST",
        help="pairs that get valid and test sets but no training text; all: every pair that --directions does not name",
    )
    what.add_argument(
        "--min-pairs",
        type=flags.count,
        metavar="N",
        help="least number of clean sentences of a pair (default: the benchmark's)",
    )
    what.add_argument(
        "--max-pairs",
        type=flags.positive_int,
        metavar="N",
        help="keep at most N training sentences of each pair, spread evenly over it (default: all; l10n opus100: 50,000)",
    )
    what.add_argument(
        "--bad-lines",
        choices=("stop", "skip"),
        default="stop",
        help="lines of your own files that are not UTF-8 or not two columns: stop at the first, or count and skip them, up "
        "to 1%% of a file (%(default)s)",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("filters", "corpus.json and DATA_CARD.md count what each filter removes")
    filters.add_argument(
        "--max-chars", type=flags.positive_int, default=1000, help="longest sentence in characters (%(default)s)"
    )
    filters.add_argument(
        "--max-ratio",
        type=flags.of(Real(1, 1e6, above=True)),
        default=3.0,
        help="drop pairs whose length ratio differs from the usual one of the languages by more than this factor (%(default)s)",
    )
    filters.add_argument(
        "--keep-copies", action="store_true", help="keep sentences that equal their translation or are in its language"
    )
    filters.add_argument(
        "--drop-near-duplicates",
        action="store_true",
        help="drop pairs that differ from an earlier one in case, digits and punctuation only (exact duplicates are always dropped)",
    )
    filters.add_argument(
        "--identify-languages",
        action="store_true",
        help="drop sentences of 5 words or more that py3langid identifies with certainty as another language (needs smoe_mt[langid])",
    )
    filters.add_argument(
        "--test-overlap",
        choices=("string", "pair"),
        default="string",
        help="which training pairs are removed because of valid and test sets: string: pairs with a sentence of these sets on "
        "either side, in any pair of languages; pair: only pairs that these sets contain as a pair (%(default)s)",
    )


def _add_held_out(parser: argparse.ArgumentParser) -> None:
    held_out = parser.add_argument_group("valid and test sets, if the corpus has none")
    held_out.add_argument(
        "--valid-size",
        type=flags.count,
        default=500,
        help="sentences held out for validation, for each pair (%(default)s)",
    )
    held_out.add_argument(
        "--test-size", type=flags.count, default=500, help="sentences held out for testing, for each pair (%(default)s)"
    )
    held_out.add_argument(
        "--min-test-words",
        type=flags.count,
        default=5,
        help="least number of words of a held-out sentence, if there are enough such sentences (%(default)s)",
    )
    held_out.add_argument(
        "--seed",
        type=flags.seed,
        default=0,
        help="random seed of valid and test sets and of SentencePiece's sample (%(default)s)",
    )


def _add_vocabulary(parser: argparse.ArgumentParser) -> None:
    vocabulary = parser.add_argument_group("vocabulary")
    vocabulary.add_argument(
        "--vocab-size",
        type=flags.vocabulary_size,
        metavar="N",
        help=f"SentencePiece pieces (the benchmark's: m4 and m15 32,000, opus100 64,000; without one "
        f"{SpmOptions.vocab_size:,}; by default fewer for small text, with a message)",
    )
    vocabulary.add_argument(
        "--normalisation",
        choices=("identity", "nmt_nfkc", "nfkc"),
        default=SpmOptions.normalisation,
        help="what SentencePiece does to text before it splits it. identity: nothing, so that every text can be produced; "
        "nmt_nfkc (the paper's): replaces compatibility characters (full-width forms, ligatures) and removes joiners, which "
        "many languages need. Text is always in Unicode's composed form, NFC (%(default)s)",
    )
