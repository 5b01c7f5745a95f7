"""Arguments of ``smoe-mt checkpoint moefy``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.allowed.kinds import Real
from smoe_mt.errors import UserError
from smoe_mt.generation.arguments import (
    add_batch_argument,
    add_data_arguments,
    add_device_argument,
    add_directions_argument,
)

#: What is not given is None until `settle`, which must know what was: of a cut, and of the text that is read.
CUT = {"units": 32, "choose": 0.2, "split": "clusters", "select": "mlp", "epochs": 30, "seconds": 60.0, "seed": 1}
TEXT = {"subset": "train", "sentences": 1000}
#: What does without them: the flag, what it leaves undone, and the options that would change nothing.
WITHOUT = (
    ("measure", "cuts nothing", tuple(CUT)),
    ("merge", "neither cuts nor reads text", (*CUT, *TEXT, "directions")),
)


def settle(args: argparse.Namespace) -> None:
    """Put the defaults where nothing was given. UserError for an option of something that is not done."""
    for flag, undone, options in WITHOUT:
        given = [f"--{name}" for name in options if getattr(args, name) is not None]
        if getattr(args, flag) and given:
            raise UserError(f"--{flag} {undone}: leave {', '.join(given)} out")
    for name, default in (CUT | TEXT).items():
        if getattr(args, name) is None:
            setattr(args, name, default)


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
    cut.add_argument("--units", type=flags.positive_int, help=f"hidden units of an expert (default: {CUT['units']})")
    cut.add_argument(
        "--choose",
        type=flags.of(Real(0, 1, above=True)),
        help=f"share of the experts that a token is sent to (default: {CUT['choose']})",
    )
    cut.add_argument(
        "--split",
        choices=("clusters", "graph", "random"),
        help=f"units of an expert have similar weights, fire together, or are drawn (default: {CUT['split']})",
    )
    cut.add_argument(
        "--select",
        choices=("mlp", "similarity", "oracle"),
        help="what predicts the experts that fire: a trained network, the mean of their weights, or the experts themselves, "
        f"which is an upper bound (default: {CUT['select']})",
    )
    cut.add_argument("--epochs", type=flags.positive_int, help=f"of the mlp's training (default: {CUT['epochs']})")
    cut.add_argument(
        "--seconds",
        type=flags.positive_float,
        help=f"no epoch of an FFN's mlp begins later than this; the result depends on the machine then (default: {CUT['seconds']})",
    )
    cut.add_argument("--seed", type=flags.seed, help=f"of all that is drawn (default: {CUT['seed']})")
    text = parser.add_argument_group("text that the model reads")
    add_data_arguments(text)
    text.add_argument("--subset", help=f"split of the data folder (default: {TEXT['subset']})")
    add_directions_argument(text)
    text.add_argument(
        "--sentences",
        type=flags.positive_int,
        help=f"sentence pairs, as many of each direction, its first ones (default: {TEXT['sentences']})",
    )
    add_batch_argument(text)
    parser.add_argument("--format", default="text", choices=("text", "json"), help="default: %(default)s")
    add_device_argument(parser)
