"""Arguments of ``smoe-mt export``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.devices import DTYPES, INT8
from smoe_mt.generation.arguments import add_data_arguments

OWN, HUGGINGFACE, CTRANSLATE2 = "smoe-mt", "huggingface", "ctranslate2"
FORMATS = (OWN, HUGGINGFACE, CTRANSLATE2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    parser.epilog = """examples:
  smoe-mt export runs/nordic exports/nordic --licence CC-BY-4.0
  smoe-mt export runs/nordic exports/nordic-bf16 --dtype bf16
  smoe-mt export runs/nordic exports/nordic-hf --format huggingface
  smoe-mt export runs/dense exports/dense-ct2 --format ctranslate2 --dtype int8"""
    parser.add_argument(
        "run", metavar="RUN", help="run folder (checkpoint.save_dir of the training) or checkpoint file"
    )
    parser.add_argument("out", type=flags.file, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=OWN,
        help="who is to read it: smoe-mt; transformers (huggingface), which smoe-mt reads as well; CTranslate2, for dense "
        "models (default: %(default)s)",
    )
    add_data_arguments(parser)
    parser.add_argument("--name", help="name of the model in its card (default: that of OUT)")
    parser.add_argument("--licence", help="licence of the weights, for the card (default: not stated)")
    parser.add_argument(
        "--dtype",
        default="fp32",
        choices=[*DTYPES, INT8],
        help="what weights are stored in; int8 with --format ctranslate2 alone (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in OUT")
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="then upload the folder to the model hub (needs smoe_mt[hub]); a repository that is not there yet is made, private",
    )
