"""Arguments of ``smoe-mt analyse``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.generation.arguments import (
    add_batch_argument,
    add_data_arguments,
    add_device_argument,
    add_directions_argument,
    add_routing_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt analyse runs/nordic
  smoe-mt analyse runs/nordic --split valid --directions sv-fi fi-sv --limit 200"""
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint file")
    add_data_arguments(parser)
    parser.add_argument("--split", default="test", help="split to read (default: %(default)s)")
    add_directions_argument(parser)
    parser.add_argument("--limit", type=flags.positive_int, help="only the first LIMIT sentences of each direction")
    parser.add_argument(
        "--out",
        type=flags.file,
        help="folder for the results (default: RUN/analysis/SPLIT; another routing has a folder of its own, such as SPLIT.capacity-visits-1)",
    )
    parser.add_argument(
        "--min-count",
        type=flags.positive_int,
        default=5,
        help="leave tokens that occur fewer than MIN_COUNT times in a direction out of the tables of tokens (default: %(default)s)",
    )
    add_batch_argument(parser)
    parser.add_argument(
        "--needed",
        action="store_true",
        help="models with strata: also what log-probability tokens lose where they must make fewer or more visits",
    )
    add_routing_arguments(parser)
    add_device_argument(parser)
