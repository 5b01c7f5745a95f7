"""Arguments of ``smoe-mt checkpoint inspect``, ``convert`` and ``average``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.devices import DTYPES


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``checkpoint inspect``."""
    parser.epilog = """examples:
  smoe-mt checkpoint inspect runs/nordic
  smoe-mt checkpoint inspect runs/nordic/checkpoint_last.pt --weights --format json"""
    parser.add_argument("model", metavar="FILE", help="a checkpoint, a run folder, or an exported folder")
    parser.add_argument("--format", default="text", choices=("text", "json"), help="default: %(default)s")
    parser.add_argument("--weights", action="store_true", help="name, shape and type of each weight as well")


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``checkpoint convert``."""
    parser.epilog = """examples:
  smoe-mt checkpoint convert runs/nordic nordic.pt --no-optimizer --dtype bf16
  smoe-mt checkpoint convert 418M_last_checkpoint.pt m2m.pt --data data/m15"""
    parser.add_argument(
        "model", metavar="IN", help="a checkpoint, a run folder, an exported folder; of a released model any file"
    )
    parser.add_argument("out", type=flags.file, metavar="OUT", help="checkpoint to write (OUT.pt)")
    parser.add_argument(
        "--sharded", action="store_true", help="write the tensors to a folder next to OUT.pt (for large models)"
    )
    parser.add_argument("--no-optimizer", action="store_true", help="leave out what only resuming a training needs")
    parser.add_argument("--dtype", choices=list(DTYPES), help="what weights are stored in (default: as they are)")
    parser.add_argument("--data", type=flags.path, help="foreign models: the data folder that they will be used with")
    parser.add_argument(
        "--dictionary",
        type=flags.file,
        metavar="FILE",
        help="foreign models: their dict.txt, where it is not in their data folder",
    )


def add_average_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``checkpoint average``."""
    parser.epilog = """examples:
  smoe-mt checkpoint average runs/nordic --last 5 --out runs/nordic/average.pt
  smoe-mt checkpoint average a/checkpoint_best.pt b/checkpoint_best.pt --out both.pt"""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="RUN",
        help="a run folder (with --last or --best), or checkpoints and exported folders",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--last", type=flags.positive_int, metavar="N", help="the N checkpoints of RUN with the most updates"
    )
    which.add_argument(
        "--best", type=flags.positive_int, metavar="N", help="the N checkpoints of RUN with the best validation loss"
    )
    parser.add_argument("--out", type=flags.file, required=True, metavar="FILE", help="checkpoint to write (FILE.pt)")
