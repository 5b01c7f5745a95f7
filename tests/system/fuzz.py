"""A fuzzer of every door: ``python -m tests.system.fuzz --inputs 10000 --seed 1``; failing inputs are printed, and

    python -m tests.system.fuzz --seed 1 --only 4711

tries one again. An input fails if it ends in a stack trace, an exit code that is not documented, or more than one line of error, or
if it hangs. Input n of a seed is always the same, whatever else is run.

Command lines run in this process. Trainings go as far as their checks; a few are really started, in processes of their own.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoe_mt import cli, launch, register
from smoe_mt.allowed.keys import KEYS
from smoe_mt.errors import UserError, one_line
from tests.conftest import train
from tests.system import damage
from tests.toy import make_toy_folder

SECONDS = 60  # that an input may take
DOCUMENTED = (0, cli.EXIT_USER_ERROR)
NUMBERS = ("0", "-1", "1", "2", "3", "0.5", "1.5", "nan", "inf", "-inf", "1e30", "1e-9", "99999999999", "-99999999999")
WORDS = (
    "abc",
    "",
    " ",
    "null",
    "true",
    "[1]",
    "[1,2]",
    "[",
    "{a: 1}",
    "(0.9,0.98)",
    "${x}",
    "${oc.env:HOME}",
    "???",
    "1,2",
    "a,b",
)
ODD = (
    "²",
    "１２",
    "1_000",
    "0x10",
    "é",
    "🙂",
    "a b",
    "x" * 300,
    "x" * 5000,
    "a\nb",
    "\x1b[31m",
    "\udcff",
    "'",
    '"',
    "\\",
    "-",
    "--",
)
PLACES = (
    "nowhere",
    "nowhere/x",
    "text.txt",
    "data",
    "run",
    ".",
    "out",
    "out/x.html",
    "run/checkpoint_last.pt",
    "export",
)


@dataclass(frozen=True)
class Home:
    """Where inputs run: `data`, `run` (evaluated and analysed), `export`, `corpus`, `configs`, `text.txt`."""

    path: Path


@dataclass(frozen=True)
class Input:
    """What is tried: a command line, perhaps after a file was damaged."""

    door: str  # verb, fairseq-train or training
    arguments: tuple[str, ...]
    damaged: str = ""  # file in the home
    how: str = ""  # name of the damage

    def __str__(self) -> str:
        damaged = f"  [{self.damaged}: {self.how}]" if self.damaged else ""
        return f"{self.door} {' '.join(repr(each) for each in self.arguments)}{damaged}"


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    code: int
    stderr: str
    trace: str = ""

    def wrong(self) -> str | None:
        """Why the input fails; None if it does not."""
        if self.trace or "Traceback" in self.stderr:
            return f"stack trace: {(self.trace or self.stderr).strip().splitlines()[-1][:200]}"
        if self.code not in DOCUMENTED:
            return f"exit code {self.code}: {self.stderr[-200:]!r}"
        lines = self.stderr.splitlines()
        errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
        if self.code == 0 and not errors:
            return None
        if self.code == 0 or len(errors) != 1 or errors[0] != len(lines) - 1:
            return f"{len(errors)} lines of error with exit code {self.code}: {self.stderr[-300:]!r}"
        return None


def make_home(path: Path, run: Path | None = None, data: Path | None = None) -> Home:
    """All that inputs can be about. `run` and `data`: those of a model that was trained already."""
    path.mkdir(parents=True, exist_ok=True)
    if data is None or run is None:
        make_toy_folder(path / "data")
        train(path / "data", path / "run", "--moe", "stratified", "--strata", "2,2", updates=10)
    else:
        shutil.copytree(data, path / "data")
        shutil.copytree(run, path / "run")
    (path / "text.txt").write_text("fofo fila\n\nfifi\n")
    (path / "corpus").mkdir()
    (path / "corpus" / "aa-en.tsv").write_text("".join(f"wort {i} und\tword {i} and\n" for i in range(60)))
    shutil.copytree(launch.configs(), path / "configs")
    (path / "hardware.json").write_text(HARDWARE)
    (path / "run" / "train.log").write_text("".join(LOG.format(update=update) for update in range(1, 11)))
    with working_in(path):
        for line in (
            "evaluate run --data data --limit 2 --beam 1",
            "analyse run --data data --limit 2",
            "export run export --data data",
        ):
            outcome = call(lambda line=line: cli.main([*line.split()]))
            assert outcome.code == 0, (line, outcome)
    return Home(path)


HARDWARE = """{"flops_per_s": 1e12, "memory_bytes": 1e9, "memory_bytes_per_s": 1e9, "within_bytes_per_s": 1e9,
"between_bytes_per_s": 1e9, "latency_s": 1e-5, "devices_per_machine": 8}"""
LOG = "2024-01-01 00:00:00 | INFO | train_inner | epoch 001: {update} / 10 loss=5.2, ppl=37, num_updates={update}, lr=0.01\n"

#: A command line of each verb that works; options and values are put on top.
WORKING = {
    "prepare": "--corpus tsv:corpus --out prepared --workers 1 --vocab-size 40 --valid-size 2 --test-size 2",
    "translate": "-m run --data data -s aa -t en text.txt --beam 2 --processes 1",
    "checkpoint inspect": "run",
    "checkpoint convert": "run out/converted.pt",
    "checkpoint average": "run/checkpoint_best.pt run/checkpoint_last.pt --out out/mean.pt",
    "checkpoint moefy": "run --measure --data data --subset test --sentences 4",
    "export": "run out/export --data data",
    "evaluate": "run --data data --limit 1 --beam 1 --processes 1 --out out/evaluation",
    "analyse": "run --data data --limit 1 --out out/analysis",
    "flops": "--config m4 model=smoe_4_4",
    "plan": "--config m4 model=smoe_4_4 --ranks 8",
    "report": "run --data data --out out/report.html",
    "path": "configs",
}
#: Neither a network nor processes without end.
LEFT_ALONE = {"--workers", "--processes", "--help", "-h", "--cache", "--refresh"}
VALUES_OF = {"--corpus": ("tsv:corpus", "moses:corpus", "tsv:nowhere", "tsv:", "abc", "")}
#: Files that people or other programs write, and the command line that reads each.
READ_BY = {
    "configs/m4.yaml": "flops --config m4 --config-dir configs",
    "configs/model/smoe_4_4.yaml": "flops --config m4 --config-dir configs model=smoe_4_4",
    "configs/scale/small.yaml": "plan --config m4 --config-dir configs scale=small --ranks 2",
    "hardware.json": "plan --config m4 --ranks 8 --hardware hardware.json",
    "text.txt": "translate -m run --data data -s aa -t en text.txt --beam 1 --processes 1",
    "corpus/aa-en.tsv": "prepare --corpus tsv:corpus --out prepared --workers 1 --vocab-size 40 --valid-size 2 --test-size 2",
    "data/corpus.json": "evaluate run --data data --limit 1 --beam 1 --processes 1 --out out/evaluation",
    "data/directions.txt": "translate -m run --data data -s aa -t en text.txt --beam 1 --processes 1",
    "data/text/test.aa-en.en": "evaluate run --data data --limit 1 --beam 1 --processes 1 --out out/evaluation",
    "data/dict.txt": "translate -m run --data data -s aa -t en text.txt --beam 1 --processes 1",
    "data/test.aa-en.en.bin": "evaluate run --data data --limit 1 --beam 1 --processes 1 --out out/evaluation",
    "data/test.aa-en.en.idx": "analyse run --data data --limit 1 --out out/analysis",
    "run/checkpoint_best.pt": "checkpoint inspect run",
    "run/train.log": "report run --data data --out out/report.html",
    "run/evaluation/test/scores.json": "report run --data data --out out/report.html",
    "run/analysis/test/requested_capacity.json": "report run --data data --out out/report.html",
    "run/analysis/test/sentences.json": "report run --data data --out out/report.html",
    "export/model.safetensors": "checkpoint inspect export",
    "export/config.json": "translate -m export -s aa -t en text.txt --beam 1 --processes 1",
}
TRAINING = ("--config", "quickstart", "task.data=data", "common.cpu=true", "checkpoint.save_dir=out/training")
SMALL = tuple(
    f"model.{side}_{size}" for side in ("encoder", "decoder") for size in ("embed_dim=16", "ffn_embed_dim=16")
)
SHORT = (*SMALL, "optimization.max_update=1", "lr_scheduler.warmup_updates=0", "common.tensorboard_logdir=null")


def input_number(number: int, seed: int, real: int = 300) -> Input:
    """An input of a seed; every `real`-th is a training that is really started."""
    rng = random.Random(f"{seed}/{number}")
    if number % real == real - 1:
        return Input("training", (*TRAINING, *SHORT, *_overrides(rng, rng.randint(1, 2))))
    door = rng.choices(("verb", "train", "fairseq-train", "damaged"), (40, 35, 10, 15))[0]
    if door == "train":
        return Input("train", (*TRAINING, *_overrides(rng, rng.choice((1, 1, 2)))))
    if door == "fairseq-train":
        return Input("fairseq-train", tuple(_flags(rng)))
    if door == "damaged":
        file = rng.choice(list(READ_BY))
        verb = next(verb for verb in WORKING if READ_BY[file].startswith(verb))
        rest = READ_BY[file].removeprefix(verb).split()
        ways = [
            way for way in damage.NAMES if (file, way) != ("hardware.json", "pipe")
        ]  # which a person named: it is waited for
        return Input(verb, tuple(rest), file, f"{rng.choice(ways)} {rng.randrange(10**6)}")
    return _command_line(rng)


def _value(rng: random.Random) -> str:
    return rng.choice(rng.choices((NUMBERS, WORDS, ODD, PLACES), (5, 3, 2, 1))[0])


def _overrides(rng: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        key = rng.choice(list(KEYS))
        if rng.random() < 0.05:
            key = rng.choice((key[:-1], key + "x", "a.b", "", key.partition(".")[0], "model@x", "hydra.run.dir"))
        yield f"{rng.choices(('', '+', '++', '~'), (85, 5, 7, 3))[0]}{key}={_value(rng)}"


def _flags(rng: random.Random) -> Iterator[str]:
    yield from (
        "data",
        "--user-dir",
        str(launch.user_dir()),
        "--task",
        "many_to_many_translation",
        "--arch",
        "smoe_transformer_tiny",
    )
    yield from (
        "--criterion",
        "stratified_routing",
        "--optimizer",
        "adam",
        "--lr",
        "0.01",
        "--max-tokens",
        "100",
        "--cpu",
    )
    for _ in range(rng.randint(1, 2)):
        names = [
            key.partition(".")[2] for key in KEYS if key != "common.user_dir"
        ]  # it is imported before flags are checked
        yield f"--{rng.choice(names).replace('_', '-')}"
        if rng.random() < 0.8:
            yield _value(rng)


def _command_line(rng: random.Random) -> Input:
    verb = rng.choice(list(WORKING))
    if rng.random() < 0.03:
        return Input(
            rng.choice((verb, verb[:-1], "x", "--version")), tuple(_value(rng) for _ in range(rng.randint(0, 3)))
        )
    words = WORKING[verb].split()
    actions = [action for action in parser_of(verb)._actions if not LEFT_ALONE & {*action.option_strings}]
    for _ in range(rng.randint(1, 3)):
        action = rng.choice(actions)
        if not action.option_strings:
            words.insert(rng.randint(0, len(words)), _value(rng))
            continue
        option = rng.choice(action.option_strings)
        words.append(option)
        if action.nargs != 0 or rng.random() < 0.05:
            choices = [*VALUES_OF.get(option, ()), *(action.choices or ())]
            good = choices and (option in VALUES_OF or rng.random() < 0.5)
            words += [rng.choice(choices) if good else _value(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    if rng.random() < 0.1:
        words.pop(rng.randrange(len(words)))
    return Input(verb, tuple(words))


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb."""
    parser = cli.Parser(prog="fuzz")
    cli.COMMANDS[verb].add_arguments(parser)
    return parser


def try_input(each: Input, home: Home) -> Outcome:
    """Run an input in its home; what it damages or writes is put back."""
    with working_in(home.path), scratch(home.path), damage.damaged(each.damaged, each.how):
        if each.door == "training":
            return _start_training(each.arguments)
        if each.door == "fairseq-train":
            return call(lambda: _parse_flags(each.arguments))
        if each.door == "train":
            return call(lambda: _check_training(each.arguments))
        return call(lambda: cli.main([*each.door.split(), *each.arguments]))


def _check_training(arguments: Sequence[str]) -> int:
    start = launch._train
    launch._train = lambda arguments: None  # type: ignore[assignment]
    try:
        return cli.main(["train", *arguments])
    finally:
        launch._train = start


def _parse_flags(arguments: Sequence[str]) -> int:
    """As fairseq-train does, up to where data would be read."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from smoe_mt.allowed.config import check_config
    from smoe_mt.training.own_settings import OWN_SETTINGS

    try:
        args = options.parse_args_and_arch(options.get_training_parser(), [*arguments])
        check_config(convert_namespace_to_omegaconf(args), OWN_SETTINGS)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return cli.EXIT_USER_ERROR
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _start_training(arguments: Sequence[str]) -> Outcome:
    command = [sys.executable, "-m", "smoe_mt.cli", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=3 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return Outcome(1, "", "it hangs")
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error:", "Traceback")) or "Error" in line]
    return Outcome(done.returncode, "\n".join(errors))


class Hangs(BaseException):
    """An input takes too long."""


def call(run: Callable[[], int]) -> Outcome:
    """Run what returns an exit code, with what it prints and what it lets through."""

    def stop(*_: object) -> None:
        raise Hangs(f"it hangs: more than {SECONDS} s")

    printed, errors = _Text("strict"), _Text("backslashreplace")
    stdin, before = sys.stdin, signal.signal(signal.SIGALRM, stop)
    showing, disabled = warnings.showwarning, logging.root.manager.disable
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"fofo\n"))
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(printed), redirect_stderr(errors), warnings.catch_warnings():
            code = run()
        return Outcome(code, errors.getvalue())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(1, errors.getvalue(), "".join(traceback.format_exception(error)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.stdin, warnings.showwarning = stdin, showing
        logging.disable(disabled)


class _Text(io.TextIOWrapper):
    """Captured text, with a buffer beneath it and in UTF-8 as a terminal has it."""

    def __init__(self, errors: str) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)

    def getvalue(self) -> str:
        return self.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


@contextmanager
def working_in(path: Path) -> Iterator[None]:
    """With another working directory."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def scratch(path: Path) -> Iterator[None]:
    """An empty folder `out`; what is new in the home afterwards is removed."""
    (path / "out").mkdir(exist_ok=True)
    there = {*path.iterdir()} - {path / "out"}
    try:
        yield
    finally:
        for new in {*path.iterdir()} - there:
            shutil.rmtree(new) if new.is_dir() and not new.is_symlink() else new.unlink()


def failing(numbers: Sequence[int], seed: int, home: Home, real: int = 300) -> Iterator[tuple[int, Input, str]]:
    """The inputs that fail, with the reason."""
    register()
    for number in numbers:
        each = input_number(number, seed, real)
        wrong = try_input(each, home).wrong()
        if wrong:
            yield number, each, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Print what fails; 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="these inputs alone, with all that they print")
    parser.add_argument("--home", type=Path, help="folder of an earlier call, to be made only once")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.home or Path(temporary) / "home").absolute()
        home = Home(folder) if (folder / "export").is_dir() else make_home(folder)
        if args.only:
            return _show([input_number(number, args.seed) for number in args.only], home)
        count = 0
        for number, each, wrong in failing(range(args.first, args.first + args.inputs), args.seed, home):
            count += 1
            print(f"#{number} {str(each)[:2000]}\n    {wrong}", flush=True)
    print(f"{args.inputs:,} inputs of seed {args.seed} from {args.first:,} on: {count} failed")
    return int(count > 0)


def _show(inputs: Sequence[Input], home: Home) -> int:
    register()
    outcomes: list[Any] = [try_input(each, home) for each in inputs]
    for each, outcome in zip(inputs, outcomes):
        print(f"{each}\nexit code {outcome.code}\n{outcome.stderr}{outcome.trace}\n-> {outcome.wrong() or 'well'}")
    return int(any(outcome.wrong() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
