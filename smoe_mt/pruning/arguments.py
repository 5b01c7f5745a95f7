"""Arguments of ``smoe-mt checkpoint prune``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.generation.arguments import (
    add_batch_argument,
    add_data_arguments,
    add_device_argument,
    add_directions_argument,
)

BY = ("outputs", "weights", "surrogate", "counts", "random")
MERGES = ("mean", "weighted", "keep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt checkpoint prune runs/nordic small.pt --experts 3,3
  smoe-mt checkpoint prune runs/m4 half.pt --experts 0.5 --by weights --merge weighted
  smoe-mt checkpoint prune runs/m4 nso-en.pt --experts 2 --by counts --directions nso-en"""
    parser.add_argument("model", metavar="RUN", help="run folder, checkpoint file or exported folder")
    parser.add_argument("out", type=flags.file, metavar="OUT", help="checkpoint to write (OUT.pt)")
    parser.add_argument(
        "--experts",
        required=True,
        metavar="N",
        help="experts that remain: a number of each gate's own, a fraction of them such as 0.5, or as model.strata and "
        "model.num_experts say it, such as 3,3 or, for each block by itself, 3,3;2,4",
    )
    parser.add_argument(
        "--by",
        default="outputs",
        choices=BY,
        help="how similar experts are: outputs (CKA on the same tokens), weights, surrogate (W_out W_in); or counts: no groups, "
        "the most used experts remain; or random groups (default: %(default)s)",
    )
    parser.add_argument(
        "--merge",
        choices=MERGES,
        help="what a group becomes: its mean, its mean weighted by use, or its most used member alone (default: mean; for "
        "--by counts keep)",
    )
    parser.add_argument(
        "--gate-bias",
        action="store_true",
        help="give the gate a bias: the log of the size of its group is added to the logit of each merged expert",
    )
    text = parser.add_argument_group("text that the model reads")
    add_data_arguments(text)
    text.add_argument("--split", default="valid", help="split to read (default: %(default)s)")
    add_directions_argument(text)
    text.add_argument(
        "--limit",
        type=flags.positive_int,
        default=128,
        help="only the first LIMIT sentences of each direction (default: %(default)s)",
    )
    text.add_argument(
        "--tokens",
        type=flags.positive_int,
        default=2048,
        help="compare outputs on so many tokens of a gate, drawn at random (default: %(default)s)",
    )
    add_batch_argument(text)
    parser.add_argument("--seed", type=flags.seed, default=1, help="of what is drawn (default: %(default)s)")
    add_device_argument(parser)
