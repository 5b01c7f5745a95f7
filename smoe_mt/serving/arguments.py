"""Arguments of ``smoe-mt serve``. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.allowed.kinds import Whole
from smoe_mt.generation.arguments import (
    add_data_arguments,
    add_decoding_arguments,
    add_precision_argument,
    add_routing_arguments,
    add_split_sentences_argument,
)

EXAMPLES = """examples:
  smoe-mt serve runs/nordic                        # a page and an API at http://127.0.0.1:5000/
  smoe-mt serve runs/nordic --port 8080 --split-sentences
  smoe-mt serve runs/nordic --host 0.0.0.0 --api-keys keys.txt --rate 60
  curl http://127.0.0.1:5000/translate -H 'content-type: application/json' \\
    -d '{"q": "God morgon.", "source": "sv", "target": "fi"}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "model",
        nargs="+",
        metavar="MODEL",
        help="run folder, checkpoint file, exported folder, or OWNER/NAME on the model hub; several translate as an ensemble",
    )
    add_data_arguments(parser)
    add_precision_argument(parser)
    parser.add_argument("--name", help="name of the model on the page (default: that of its folder)")
    add_split_sentences_argument(parser)
    _add_door(parser)
    _add_limits(parser)
    add_decoding_arguments(parser)
    add_routing_arguments(parser)


def _add_door(parser: argparse.ArgumentParser) -> None:
    door = parser.add_argument_group("address")
    door.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0: at all of this machine's (default: %(default)s, which only it can reach)",
    )
    door.add_argument(
        "--port", type=flags.of(Whole(0, 65535)), default=5000, help="0: a free one (default: %(default)s)"
    )
    door.add_argument(
        "--api-keys",
        type=flags.file,
        metavar="FILE",
        help="answer only to these keys, one a line (default: to everybody)",
    )
    door.add_argument(
        "--trust-proxy",
        metavar="ADDRESS",
        help="address of a reverse proxy, whose X-Forwarded-For says who asks (default: none)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    number = flags.positive_int
    limits.add_argument(
        "--max-characters", type=number, default=20_000, metavar="N", help="of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--max-lines", type=number, default=500, metavar="N", help="of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--max-waiting", type=number, default=2000, metavar="N", help="lines in the queue (default: %(default)s)"
    )
    limits.add_argument(
        "--rate",
        type=flags.count,
        default=0,
        metavar="N",
        help="requests a minute of a key or, without keys, of an address; 0: any number (default: %(default)s)",
    )
    limits.add_argument(
        "--timeout",
        type=flags.positive_float,
        default=60.0,
        metavar="S",
        help="seconds to an answer (default: %(default)s)",
    )
    limits.add_argument(
        "--batch-lines",
        type=number,
        default=64,
        metavar="N",
        help="lines of several requests that are translated together (default: %(default)s)",
    )
    limits.add_argument(
        "--workers",
        type=flags.processes,
        default=1,
        metavar="N",
        help="processes that each hold the model and translate batches of their own (default: %(default)s)",
    )
