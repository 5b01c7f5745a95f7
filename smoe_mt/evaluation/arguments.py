"""Arguments of ``smoe-mt evaluate``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.allowed.kinds import Whole
from smoe_mt.bleu_tokenizers import AUTO
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, METRICS
from smoe_mt.evaluation.scores import BASELINES
from smoe_mt.evaluation.selection import ALL
from smoe_mt.evaluation.significance import LEVEL, RESAMPLES
from smoe_mt.generation.arguments import (
    add_data_arguments,
    add_decoding_arguments,
    add_directions_argument,
    add_routing_arguments,
)

DEFAULT_SPLIT = "test"
EXAMPLES = """examples:
  smoe-mt evaluate runs/nordic --samples 5
  smoe-mt evaluate runs/dense runs/smoe --compare
  smoe-mt evaluate runs/seed1 runs/seed2 --ensemble
  smoe-mt evaluate runs/nordic --capacity mean=1.5
  smoe-mt evaluate runs/nordic --source my.sv --reference my.fi --direction sv-fi"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="evaluate all RUNs as one ensemble (mean of their probabilities), in one column",
    )
    text = parser.add_argument_group("text to translate")
    add_data_arguments(text)
    text.add_argument("--split", help=f"split of the data folder (default: {DEFAULT_SPLIT})")
    add_directions_argument(text)
    text.add_argument("--limit", type=flags.positive_int, help="only the first LIMIT sentences of each direction")
    text.add_argument(
        "--source", type=flags.file, metavar="FILE", help="a file to translate instead of a split, one sentence a line"
    )
    text.add_argument(
        "--reference", type=flags.file, metavar="FILE", help="the reference translations of --source, line by line"
    )
    text.add_argument("--direction", help="the direction of --source, such as nso-en")
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        help=f"any of {', '.join(metric.name for metric in METRICS)}; {ALL}: those that can be computed on this machine "
        f"(default: {' '.join(metric.name for metric in DEFAULT_METRICS)})",
    )
    scores.add_argument(
        "--tokenize",
        default=AUTO,
        help="sacreBLEU's tokenizer for BLEU (default: %(default)s, by target language: zh, ja-mecab, ko-mecab, char for other "
        "languages without spaces, else 13a)",
    )
    scores.add_argument(
        "--compare",
        action="store_true",
        help=f"test which runs are better than the first one at p < {LEVEL}, and in which directions (paired bootstrap)",
    )
    scores.add_argument(
        "--resamples",
        type=flags.of(Whole(1, 10**6)),
        default=RESAMPLES,
        metavar="N",
        help="number of resamples of --compare (default: %(default)s)",
    )
    scores.add_argument(
        "--baseline",
        choices=list(BASELINES),
        default="copy",
        help="column of the table to compare with; copy: the source itself (default: %(default)s)",
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--out",
        type=flags.file,
        metavar="FOLDER",
        help="folder for the results (default: RUN/evaluation/SPLIT; what is not "
        "all text with the usual search has a folder of its own, such as SPLIT.first-20.beam-1)",
    )
    out.add_argument("--again", action="store_true", help="translate again instead of using stored hypotheses")
    out.add_argument(
        "--samples", type=flags.count, default=0, metavar="N", help="print N translations of each run (default: none)"
    )
    add_decoding_arguments(parser)
    add_routing_arguments(parser)
    parser.add_argument(
        "--expert-parallel-size",
        type=flags.ranks,
        default=1,
        metavar="N",
        help="under torchrun: number of ranks that share the experts of a model that is too large for one of them",
    )
