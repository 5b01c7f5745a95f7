"""``smoe-mt translate``: raw text from a pipe, a file or a prompt; one line of output for each line of input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from smoe_mt.errors import UserError
from smoe_mt.files import check_output, output
from smoe_mt.generation.arguments import routing_of
from smoe_mt.generation.job import Job, decoding_of
from smoe_mt.generation.lines import gathered, read_chunks, read_lines
from smoe_mt.generation.prompt import Prompt
from smoe_mt.generation.sentences import check_split
from smoe_mt.generation.translator import Translator
from smoe_mt.inputs import STDIN, check_input, check_not_one_stream, open_input, title_of
from smoe_mt.language_codes import canonical
from smoe_mt.memory import keep_freed_memory


def run(args: argparse.Namespace) -> None:
    """Translate what the arguments name. Raises UserError for a file, a language or a model that cannot be used."""
    typed = args.input is None and sys.stdin is not None and sys.stdin.isatty()
    source = STDIN if args.input is None else args.input
    if not typed:
        check_input(source)
    if args.output is not None:
        check_output(args.output)
    if args.nbest > args.beam:
        raise UserError(f"--nbest {args.nbest}: it must be from 1 to --beam, {args.beam}")
    decoding_of(args)
    routing = routing_of(args)
    if args.split_sentences:
        check_split(args.nbest, args.routing)
    if args.prefix_file is not None:
        check_not_one_stream({"--prefix-file": args.prefix_file, "input": source})
    prefixes = read_lines(args.prefix_file) if args.prefix_file is not None else None
    keep_freed_memory()
    translator = Translator.from_pretrained(
        args.model, args.data, args.device, args.dtype, verify=args.verify, routing=routing
    )
    for line in translator.calibrations:
        print(line, file=sys.stderr)
    job = Job(translator, _direction(translator, args, typed), args, prefixes=prefixes)
    with _output(args.output) as output:
        if typed:
            Prompt(job, output).converse()
        else:
            with open_input(source) as stream:
                _translate_stream(job, stream, output, name=title_of(source))


def _direction(translator: Translator, args: argparse.Namespace, typed: bool) -> tuple[str, str]:
    """As asked for; a person who did not say, or a model with one direction, gets the first."""
    asked = tuple(canonical(one) if one else None for one in (args.source, args.target))
    if asked[0] and asked[1]:
        translator.check(asked[0], asked[1])
        return asked[0], asked[1]
    fitting = [
        (source, target)
        for source, target in (direction.split("-") for direction in translator.directions)
        if asked[0] in (None, source) and asked[1] in (None, target)
    ]
    if len(fitting) == 1 or (fitting and typed):
        return fitting[0]
    raise UserError(f"which direction? give --source and --target; the model knows {', '.join(translator.directions)}")


def _translate_stream(job: Job, stream: BinaryIO, output: TextIO, name: str) -> None:
    for lines in gathered(read_chunks(stream, name), job.args.buffer):
        output.writelines(line + "\n" for line in job.translate(lines))
        output.flush()


@contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name only once it is whole."""
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    with output(path) as stream:
        yield stream
