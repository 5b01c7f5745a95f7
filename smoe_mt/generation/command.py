"""``smoe-mt translate``: raw text from a pipe, a file or a prompt; one line of output for each line of input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from smoe_mt.errors import UserError
from smoe_mt.files import check_output, output
from smoe_mt.generation.details import Candidate, Translation, Visits
from smoe_mt.generation.sentences import check_split
from smoe_mt.generation.translator import Translator
from smoe_mt.inputs import STDIN, check_input, open_input, title_of
from smoe_mt.memory import keep_freed_memory
from smoe_mt.search.beam import Decoding

CHUNK_BYTES = 1 << 18
LONGEST_LINE = 1 << 20  # bytes; models take a few hundred tokens, and cut what is longer


def decoding_of(args: argparse.Namespace) -> Decoding:
    """The settings of the search. UserError for values that contradict each other."""
    return Decoding(args.beam, args.lenpen, args.max_len_a, args.max_len_b)


@dataclass
class Job:
    """What was asked for: the model, the direction, how to search and what to print. Counts the lines as it goes."""

    translator: Translator
    direction: tuple[str, str]
    args: argparse.Namespace
    lines: int = 0
    prefixes: list[str] | None = None

    def translate(self, lines: list[str]) -> list[str]:
        """The output lines for `lines`. UserError where --prefix-file has no line for one of them."""
        args = self.args
        prefix: str | list[str] | None = args.prefix
        if self.prefixes is not None:
            prefix = self.prefixes[self.lines : self.lines + len(lines)]
            if len(prefix) < len(lines):
                raise UserError(
                    f"{args.prefix_file} has {len(self.prefixes)} lines, and the input has more: give one for each"
                )
        found = self.translator.translate_in_detail(
            lines,
            *self.direction,
            decoding_of(args),
            prefix,
            nbest=args.nbest,
            routing=args.routing,
            split_sentences=args.split_sentences,
            max_tokens=args.max_tokens,
            processes=args.processes,
        )
        return [line for translation in found for line in self._printed(translation)]

    def _printed(self, translation: Translation) -> Iterator[str]:
        self.lines += 1
        if self.args.json or self.args.routing:
            yield json.dumps(as_json(translation), ensure_ascii=False)
            return
        number = f"{self.lines}\t" if self.args.nbest > 1 else ""
        for candidate in translation.candidates:
            score = f"{candidate.score:.4f}\t" if self.args.scores else ""
            yield number + score + candidate.text


def as_json(translation: Translation) -> dict[str, Any]:
    """A translation as plain values; visits only where they are known."""
    return {"source": translation.source, "candidates": [_candidate(one) for one in translation.candidates]}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    entry: dict[str, Any] = {"text": candidate.text, "score": candidate.score}
    for side, visits in (("source", candidate.source_visits), ("target", candidate.target_visits)):
        if isinstance(visits, Visits):
            entry[side] = {"pieces": visits.pieces, "visits": visits.blocks}
    return entry


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
    if args.split_sentences:
        check_split(args.nbest, args.routing)
    prefixes = read_lines(args.prefix_file) if args.prefix_file is not None else None
    keep_freed_memory()
    translator = Translator.from_pretrained(args.model, args.data, args.device, args.dtype, verify=args.verify)
    job = Job(translator, _direction(translator, args, typed), args, prefixes=prefixes)
    with _output(args.output) as output:
        if typed:
            _converse(job, output)
        else:
            with open_input(source) as stream:
                _translate_stream(job, stream, output, name=title_of(source))


def _direction(translator: Translator, args: argparse.Namespace, typed: bool) -> tuple[str, str]:
    """As asked for; a person who did not say, or a model with one direction, gets the first."""
    if args.source and args.target:
        translator.check(args.source, args.target)
        return args.source, args.target
    fitting = [
        (source, target)
        for source, target in (direction.split("-") for direction in translator.directions)
        if args.source in (None, source) and args.target in (None, target)
    ]
    if len(fitting) == 1 or (fitting and typed):
        return fitting[0]
    raise UserError(f"which direction? give --source and --target; the model knows {', '.join(translator.directions)}")


def _translate_stream(job: Job, stream: BinaryIO, output: TextIO, name: str) -> None:
    for lines in gathered(read_chunks(stream, name), job.args.buffer):
        output.writelines(line + "\n" for line in job.translate(lines))
        output.flush()


def _converse(job: Job, output: TextIO) -> None:
    """A prompt on stderr, so that stdout holds translations alone. Ends with the end of file."""
    directions = job.translator.directions
    print(f"Type a sentence and Enter; Ctrl-D ends. Directions: {', '.join(directions)}", file=sys.stderr)
    if len(directions) > 1:
        print(f"Type one of them, such as {directions[-1]}, to change to it.", file=sys.stderr)
    while True:
        print("-".join(job.direction), end="> ", file=sys.stderr, flush=True)
        typed = sys.stdin.buffer.readline(LONGEST_LINE)
        if not typed:
            print(file=sys.stderr)
            return
        try:
            line = _decode([typed.rstrip(b"\n")], "standard input", job.lines)[0].strip()
        except UserError as error:  # a slip of the hand ends no conversation
            print(f"error: {error}", file=sys.stderr)
            continue
        if line in directions:
            source, target = line.split("-")
            job.direction = source, target
            continue
        print(*job.translate([line]), sep="\n", file=output, flush=True)


def gathered(chunks: Iterable[list[str]], least: int) -> Iterator[list[str]]:
    """The same lines, at least `least` at a time except for the last."""
    waiting: list[str] = []
    for lines in chunks:
        waiting += lines
        if len(waiting) >= least:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def read_chunks(stream: BinaryIO, name: str, size: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """The lines of `stream`, as many at a time as are there already (at most about `size` bytes), so that a pipe flows.

    Only a line feed ends a line. Raises UserError with the number of a line that is not UTF-8, or longer than any sentence.
    """
    rest = b""
    number = 0
    read = getattr(stream, "read1", stream.read)
    while block := read(size):
        *whole, rest = (rest + block).split(b"\n")
        if whole:
            yield _decode(whole, name, number)
            number += len(whole)
        if len(rest) > LONGEST_LINE:
            raise _too_long(name, number + 1)
    if rest:
        yield _decode([rest], name, number)


def read_lines(path: str | Path) -> list[str]:
    """All lines of a text. UserError for one that cannot be read, and as `read_chunks`."""
    with open_input(path) as stream:
        return [line for lines in read_chunks(stream, title_of(path)) for line in lines]


def _too_long(name: str, number: int) -> UserError:
    return UserError(
        f"{name}, line {number}: longer than {LONGEST_LINE:,} bytes, so no sentence; one sentence a line is translated"
    )


def _decode(lines: list[bytes], name: str, before: int) -> list[str]:
    decoded = []
    for offset, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise _too_long(name, before + offset)
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
    with output(path) as stream:
        yield stream
