"""Arguments of ``smoe-mt translate``, and those that several commands share. Nothing slow is imported here."""

from __future__ import annotations

import argparse

from smoe_mt.allowed import flags
from smoe_mt.allowed.keys import GENERATION
from smoe_mt.allowed.kinds import Real, Whole
from smoe_mt.devices import DTYPES, INT8
from smoe_mt.generation.routing_options import RoutingOptions

Arguments = argparse.ArgumentParser | argparse._ArgumentGroup

TRANSLATE_EXAMPLES = """examples:
  echo "God morgon." | smoe-mt translate -m runs/nordic -s sv -t fi
  smoe-mt translate -m runs/nordic -s sv -t fi input.txt -o output.txt
  smoe-mt translate -m runs/a -m runs/b -s sv -t fi --nbest 3 < input.txt    # an ensemble
  smoe-mt translate -m runs/nordic -s sv -t fi --split-sentences < article.txt
  smoe-mt translate -m runs/nordic                           # a prompt"""


def add_translate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``translate``."""
    parser.epilog = TRANSLATE_EXAMPLES
    parser.add_argument(
        "input",
        type=flags.file,
        nargs="?",
        help="file to translate, one sentence a line, also compressed (.gz, .xz, .zst); -: standard input (default)",
    )
    parser.add_argument("-s", "--source", help="language of the input; at a prompt you can change it")
    parser.add_argument("-t", "--target", help="language of the output")
    add_split_sentences_argument(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m",
        "--model",
        required=True,
        action="append",
        help="run folder, checkpoint file, exported folder, or OWNER/NAME on the model hub; if given several times, the models "
        "translate as an ensemble (mean of their probabilities)",
    )
    add_data_arguments(model)
    add_precision_argument(model)
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--output", type=flags.file, help="file to write (default: standard output)")
    out.add_argument(
        "--nbest",
        type=flags.beam,
        default=1,
        metavar="N",
        help="print the N best candidates of each line, each after the line's number and a tab",
    )
    out.add_argument(
        "--scores", action="store_true", help="print the score (log-probability) and a tab before the text"
    )
    out.add_argument("--json", action="store_true", help="print one JSON object a line: source and candidates")
    out.add_argument("--routing", action="store_true", help="--json, with the visits of every piece in every MoE block")
    out.add_argument(
        "--buffer",
        type=flags.positive_int,
        default=1,
        metavar="N",
        help="collect at least N lines from a pipe before translating (default: translate each line when it arrives)",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--prefix", metavar="TEXT", help="how every translation has to begin")
    begin.add_argument(
        "--prefix-file",
        type=flags.file,
        metavar="FILE",
        help="how each translation has to begin, line by line of the input",
    )
    add_decoding_arguments(parser)
    add_routing_arguments(parser)


def add_data_arguments(parser: Arguments) -> None:
    """Add the arguments of every command that needs the data folder of a model."""
    parser.add_argument("--data", type=flags.path, help="data folder, if it has moved since training")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare every file of the data folder with its checksum, including files that were verified earlier and have not "
        "changed since",
    )


def add_directions_argument(parser: Arguments) -> None:
    """Add that of every command that reads a split."""
    parser.add_argument("--directions", nargs="+", help="only these, such as nso-en,en-nso (default: all of the split)")


def add_batch_argument(parser: Arguments) -> None:
    """Add that of every command in which a model reads sources and references."""
    parser.add_argument(
        "--max-tokens",
        type=flags.positive_int,
        default=4096,
        help="source or target tokens in a batch (default: %(default)s)",
    )


def add_device_argument(parser: Arguments) -> None:
    """Add that of every command that computes."""
    parser.add_argument("--device", type=flags.device, default="auto", help="auto, cpu or cuda (default: %(default)s)")


def add_precision_argument(parser: Arguments) -> None:
    """Add that of every command that translates and does nothing else."""
    parser.add_argument(
        "--dtype",
        default="fp32",
        choices=[*DTYPES, INT8],
        help="precision; int8: 8-bit products on a CPU with VNNI (default: %(default)s)",
    )


def add_split_sentences_argument(parser: Arguments) -> None:
    """Add that of every command that translates what people write."""
    parser.add_argument(
        "--split-sentences",
        action="store_true",
        help="lines may hold several sentences: translate each by itself and join them again (needs smoe_mt[split])",
    )


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that translates."""
    number = flags.of
    search = parser.add_argument_group("beam search")
    search.add_argument("--beam", type=flags.beam, default=5, help="beam size (default: %(default)s)")
    search.add_argument(
        "--lenpen",
        type=number(GENERATION["lenpen"]),
        default=1.0,
        help="length penalty: scores are divided by length ** LENPEN (default: %(default)s)",
    )
    search.add_argument(
        "--max-len-a",
        type=number(GENERATION["max_len_a"]),
        default=2.0,
        metavar="A",
        help="an output has at most A * source tokens + B tokens (default: %(default)s)",
    )
    search.add_argument(
        "--max-len-b", type=number(GENERATION["max_len_b"]), default=10, metavar="B", help="(default: %(default)s)"
    )
    contrast = parser.add_argument_group("contrast (SCMoE): the model against itself with a weaker routing")
    contrast.add_argument(
        "--contrast",
        type=number(Real(0, 100)),
        metavar="BETA",
        help="score tokens by (1 + BETA) * strong - BETA * weak, where the weak pass sends each token to one expert of lower rank",
    )
    contrast.add_argument(
        "--contrast-rank",
        type=number(Whole(1, 10**6)),
        metavar="K",
        help="rank of that expert at its gate, from 1 (default: 2)",
    )
    contrast.add_argument(
        "--contrast-alpha",
        type=number(Real(0, 1)),
        metavar="A",
        help="leave out tokens that the strong pass finds less probable than A times the best one; 0: none (default: 0.1)",
    )
    contrast.add_argument(
        "--contrast-encoder",
        action="store_true",
        default=None,
        help="the weak pass reads the source with the weaker routing, too",
    )
    speed = parser.add_argument_group("speed")
    add_device_argument(speed)
    speed.add_argument(
        "--max-tokens", type=flags.positive_int, default=4096, help="source tokens in a batch (default: %(default)s)"
    )
    speed.add_argument(
        "--processes",
        type=flags.processes,
        help="on a CPU, number of single-threaded processes that share the batches (default: one for each core or "
        "OMP_NUM_THREADS, fewer if memory is short)",
    )


def add_routing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command that can route otherwise than in training."""
    routing = parser.add_argument_group("routing, where it is not to be that of the training")
    routing.add_argument(
        "--test-top-k", type=flags.of(Whole(1, 10**6)), metavar="N", help="experts of a token at each gate"
    )
    routing.add_argument(
        "--test-top-p",
        type=flags.of(Real(0, 1)),
        metavar="P",
        help="a token takes its best experts until their probabilities sum to P (weights renormalised)",
    )
    routing.add_argument(
        "--test-threshold",
        type=flags.of(Real(0, 1)),
        metavar="T",
        help="models with threshold routing (xmoe): another one",
    )
    routing.add_argument(
        "--capacity",
        metavar="DIAL",
        help="models with strata: bias=B (above 0: more visits; below: fewer), visits=N (at most N), or mean=M (the bias that gives "
        "a mean of M visits on the validation text)",
    )


def routing_of(args: argparse.Namespace) -> RoutingOptions:
    """The routing that the arguments ask for. UserError for values that contradict each other."""
    return RoutingOptions(args.test_top_k, args.test_top_p, args.test_threshold, args.capacity)
