"""``smoe-mt prepare``: the one entry of the data preparation (also ``python -m data_prep.prepare``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.clean import CleanOptions
from data_prep.corpora import open_corpus
from data_prep.files import disk_errors_are_said
from data_prep.parallel import available_cores
from data_prep.pipeline import Options, build
from data_prep.report import summary
from data_prep.split import SplitOptions
from data_prep.spm import SpmOptions
from smoe_mt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``prepare``."""
    parser.add_argument(
        "--corpus",
        required=True,
        metavar="l10n|tsv:DIR",
        help="where text comes from: packages, or your SRC-TGT.tsv files",
    )
    parser.add_argument("--benchmark", help="which languages of the l10n corpus: m4")
    parser.add_argument("--out", required=True, type=Path, metavar="DATA", help="the data folder to make")
    parser.add_argument(
        "--vocab-size",
        type=_positive,
        default=8000,
        help="SentencePiece pieces (%(default)s; fewer if the text is small)",
    )
    parser.add_argument(
        "--normalisation",
        choices=("nmt_nfkc", "nfkc", "identity"),
        default="nmt_nfkc",
        help="SentencePiece's normalisation (%(default)s)",
    )
    parser.add_argument(
        "--valid-size", type=_count, default=500, help="sentences held out for validation a pair (%(default)s)"
    )
    parser.add_argument(
        "--test-size", type=_count, default=500, help="sentences held out for testing a pair (%(default)s)"
    )
    parser.add_argument(
        "--min-test-words", type=_count, default=5, help="words a held-out sentence should have (%(default)s)"
    )
    parser.add_argument(
        "--max-chars", type=_positive, default=1000, help="longest sentence in characters (%(default)s)"
    )
    parser.add_argument(
        "--max-ratio",
        type=_ratio,
        default=3.0,
        help="largest factor between a length ratio and the usual one (%(default)s)",
    )
    parser.add_argument(
        "--keep-copies", action="store_true", help="keep sentences that equal their translation or stay in its language"
    )
    parser.add_argument(
        "--max-pairs", type=_positive, metavar="N", help="only the first N clean sentences of each pair, for quick runs"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the draw of valid and test sets and of SentencePiece's sample (%(default)s)",
    )
    parser.add_argument(
        "--workers", type=_positive, default=available_cores(), help="processes (all cores: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/smoe_mt"), help="where downloaded packages are kept (%(default)s)"
    )
    parser.add_argument("--refresh", action="store_true", help="download packages anew even if they are in the cache")


def run(args: argparse.Namespace) -> None:
    """Prepare and print the counts; UserError for what the user can mend."""
    cache = args.cache.expanduser()
    options = Options(
        CleanOptions(args.max_chars, args.max_ratio, args.keep_copies),
        SplitOptions(args.valid_size, args.test_size, args.min_test_words, seed=args.seed),
        SpmOptions(args.vocab_size, args.normalisation, args.seed),
        args.max_pairs,
    )
    with disk_errors_are_said(args.out):
        corpus = open_corpus(args.corpus, args.benchmark, cache, args.refresh)
        value = build(corpus, options, args.out.expanduser(), args.workers, args.refresh)
    print(summary(value))
    print(f"\n{args.out}: {len(value['pairs'])} pairs, {value['vocab_size']} dictionary entries")


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _ratio(text: str) -> float:
    if (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 1")
    return value


def main() -> None:
    """The command line of this module alone."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.prepare", description=__doc__)
    add_arguments(parser)
    try:
        run(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
