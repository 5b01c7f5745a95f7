"""Arguments of ``smoe-mt checkpoint moefy``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.allowed.kinds import Real
from smoe_mt.generation.arguments import (
    add_batch_argument,
    add_data_arguments,
    add_device_argument,
    add_directions_argument,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt checkpoint moefy runs/dense --measure             # how many hidden units fire at all
  smoe-mt checkpoint moefy runs/dense cut.pt --units 32 --choose 0.2
  smoe-mt checkpoint moefy cut.pt dense.pt --merge          # the dense model again"""
    parser.add_argument("model", metavar="IN", help="a run folder, a checkpoint or an exported folder")
    parser.add_argument("out", type=flags.file, nargs="?", metavar="OUT", help="checkpoint to write (OUT.pt)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--measure", action="store_true", help="measure the sparsity of the FFNs alone, and write nothing"
    )
    what.add_argument("--merge", action="store_true", help="put a model that was cut together again; needs no data")
    cut = parser.add_argument_group("experts")
    cut.add_argument(
        "--units", type=flags.positive_int, default=32, help="hidden units of an expert (default: %(default)s)"
    )
    cut.add_argument(
        "--choose",
        type=flags.of(Real(0, 1, above=True)),
        default=0.2,
        help="share of the experts that a token is sent to (default: %(default)s)",
    )
    cut.add_argument(
        "--split",
        choices=("clusters", "graph", "random"),
        default="clusters",
        help="units of an expert have similar weights, fire together, or are drawn (default: %(default)s)",
    )
    cut.add_argument(
        "--select",
        choices=("mlp", "similarity", "oracle"),
        default="mlp",
        help="what predicts the experts that fire: a trained network, the mean of their weights, or the experts themselves, "
        "which is an upper bound (default: %(default)s)",
    )
    cut.add_argument(
        "--epochs", type=flags.positive_int, default=30, help="of the mlp's training (default: %(default)s)"
    )
    cut.add_argument(
        "--seconds",
        type=flags.positive_float,
        default=60.0,
        help="no epoch of an FFN's mlp begins later than this; the result depends on the machine then (default: %(default)s)",
    )
    cut.add_argument("--seed", type=flags.seed, default=1, help="of all that is drawn (default: %(default)s)")
    text = parser.add_argument_group("text that the model reads")
    add_data_arguments(text)
    text.add_argument("--subset", default="train", help="split of the data folder (default: %(default)s)")
    add_directions_argument(text)
    text.add_argument(
        "--sentences",
        type=flags.positive_int,
        default=1000,
        help="sentence pairs, as many of each direction, its first ones (default: %(default)s)",
    )
    add_batch_argument(text)
    parser.add_argument("--format", default="text", choices=("text", "json"), help="default: %(default)s")
    add_device_argument(parser)
