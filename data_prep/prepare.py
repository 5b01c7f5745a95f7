"""``smoe-mt prepare``: the one entry of the data preparation (also ``python -m data_prep.prepare``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.arguments import add_arguments
from data_prep.card import CARD
from data_prep.clean import CleanOptions
from data_prep.corpora import open_corpus
from data_prep.corpora.base import Request
from data_prep.corpora.public import PublicCorpus
from data_prep.directions import Selection
from data_prep.files import disk_errors_are_said
from data_prep.language_check import check_library
from data_prep.pipeline import Options, build
from data_prep.report import summary
from data_prep.split import SplitOptions
from data_prep.spm import SpmOptions
from smoe_mt.errors import UserError
from smoe_mt.paper.benchmarks import Benchmark, benchmark_named


def run(args: argparse.Namespace) -> None:
    """Prepare and print the counts; UserError for a user's mistake."""
    benchmark = None if args.benchmark is None else benchmark_named(args.benchmark)
    selection = Selection(args.directions, args.zero_shot)
    out, cache = Path(args.out), Path(args.cache)
    with disk_errors_are_said(out):
        request = Request(
            "", benchmark, selection, args.min_pairs, cache, args.refresh, skip_bad_lines=args.bad_lines == "skip"
        )
        corpus = open_corpus(args.corpus, request)
        if args.dry_run:
            if not isinstance(corpus, PublicCorpus):
                raise UserError("--dry-run belongs to --corpus public")
            print(corpus.plan())
            return
        value = build(corpus, _options(args, benchmark), out, args.workers, args.refresh)
    print(summary(value))
    print(f"\n{out}: {len(value['pairs'])} pairs, {value['vocab_size']} dictionary entries; see {out / CARD}")


def _options(args: argparse.Namespace, benchmark: Benchmark | None) -> Options:
    usual_size = SpmOptions.vocab_size if benchmark is None else benchmark.vocab_size
    most = benchmark.l10n_most if benchmark is not None and args.corpus == "l10n" else None
    if args.identify_languages:
        check_library()
    return Options(
        CleanOptions(
            args.max_chars, args.max_ratio, args.keep_copies, not args.drop_near_duplicates, args.identify_languages
        ),
        SplitOptions(args.valid_size, args.test_size, args.min_test_words, seed=args.seed, overlap=args.test_overlap),
        SpmOptions(args.vocab_size or usual_size, args.normalisation, args.seed, args.vocab_size is not None),
        args.max_pairs or most,
    )


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
