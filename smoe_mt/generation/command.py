"""``smoe-mt translate``: raw text from a pipe, a file or a person, a line of translation for each line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from smoe_mt.errors import UserError
from smoe_mt.generation.translator import Translator

CHUNK_BYTES = 1 << 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("input", nargs="?", help="file to translate, one sentence a line (default: standard input)")
    parser.add_argument("-o", "--output", help="file to write (default: standard output)")
    parser.add_argument(
        "-m", "--model", required=True, help="run folder (--save-dir of the training) or checkpoint file"
    )
    parser.add_argument("--data", help="data folder, where it is not where it was in training")
    parser.add_argument("-s", "--source", required=True, help="language of the input")
    parser.add_argument("-t", "--target", required=True, help="language of the output")
    add_decoding_arguments(parser)


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every verb that translates."""
    parser.add_argument("--beam", type=int, default=5, help="beam size (default: %(default)s)")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty exponent (default: %(default)s)")
    parser.add_argument(
        "--max-len-a", type=float, default=2.0, help="at most a * source tokens + b (default: %(default)s)"
    )
    parser.add_argument("--max-len-b", type=int, default=10, help="output tokens (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=4096, help="source tokens in a batch (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Translate what the arguments name. Raises UserError for a file, a language or a model that cannot be used."""
    if args.input is not None and not Path(args.input).is_file():
        raise UserError(f"{args.input}: no such file")
    translator = Translator.from_pretrained(args.model, args.data, args.device)
    translator.check(args.source, args.target)
    with _output(args.output) as output:
        if args.input is not None:
            with open(args.input, "rb") as stream:
                _translate_stream(translator, stream, output, args, name=args.input)
        elif sys.stdin.isatty():
            _converse(translator, output, args)
        else:
            _translate_stream(translator, sys.stdin.buffer, output, args, name="standard input")


def _translate_stream(
    translator: Translator, stream: BinaryIO, output: TextIO, args: argparse.Namespace, name: str
) -> None:
    for lines in read_chunks(stream, name):
        output.writelines(translation + "\n" for translation in _translate(translator, lines, args))
        output.flush()


def _converse(translator: Translator, output: TextIO, args: argparse.Namespace) -> None:
    """A prompt on stderr, so that stdout holds translations alone. Ends with the end of file."""
    prompt = f"{args.source}-{args.target}> "
    print("Type a sentence and Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            print(file=sys.stderr)
            return
        print(_translate(translator, [line], args)[0], file=output, flush=True)


def _translate(translator: Translator, lines: list[str], args: argparse.Namespace) -> list[str]:
    return translator.translate(
        lines,
        args.source,
        args.target,
        beam=args.beam,
        lenpen=args.lenpen,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        max_tokens=args.max_tokens,
    )


def read_chunks(stream: BinaryIO, name: str, size: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """The lines of `stream`, as many at a time as are there already (at most about `size` bytes), so that a pipe flows.

    Only a line feed ends a line. Raises UserError with the number of a line that is not UTF-8.
    """
    rest = b""
    number = 0
    read = getattr(stream, "read1", stream.read)
    while block := read(size):
        *whole, rest = (rest + block).split(b"\n")
        if whole:
            yield _decode(whole, name, number)
            number += len(whole)
    if rest:
        yield _decode([rest], name, number)


def _decode(lines: list[bytes], name: str, before: int) -> list[str]:
    decoded = []
    for offset, line in enumerate(lines, start=1):
        try:
            decoded.append(line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {before + offset}: not UTF-8; convert the text first (iconv -t utf-8)"
            ) from error
    return decoded


@contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name only once it is whole."""
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
