"""``smoe-mt``: one command for each step from raw text to figures. Each is a thin call into a module of the package."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

from smoe_mt.checkpoints.hub import looks_like_model_id
from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.errors import UserError, naming_flags, one_line, reason_of
from smoe_mt.lean_fairseq import TALKATIVE, leave_out_unused
from smoe_mt.standard_streams import STDOUT, check_output_is_open, drop_output, standard_streams
from smoe_mt.start_up import import_at_once


@dataclass(frozen=True)
class Command:
    """`arguments`, module:function, adds the arguments to a parser, and imports nothing slow. `module` offers ``run(args)``; it is
    imported once the arguments are right. `models`: the argument that names models, if there is one.
    """

    arguments: str
    module: str
    help: str
    models: str = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        module, _, function = self.arguments.partition(":")
        getattr(importlib.import_module(module), function)(parser)

    def check(self, args: argparse.Namespace) -> None:
        """UserError for a model that is not there; one that may lie on the hub is looked for later."""
        models = getattr(args, self.models) if self.models else []
        for model in [models] if isinstance(models, str) else models:
            if not looks_like_model_id(model):
                find_checkpoint(model)


class Parser(argparse.ArgumentParser):
    """argparse that reports a wrong argument as a UserError, and prints examples of usage as they are written."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


COMMANDS = {
    "prepare": Command(
        "data_prep.arguments:add_arguments",
        "data_prep.prepare",
        "text -> data folder: fetch, clean, split, SentencePiece, binarise",
    ),
    "train": Command(
        "smoe_mt.launch:add_arguments", "smoe_mt.launch", "data folder -> checkpoints, from a Hydra config"
    ),
    "translate": Command(
        "smoe_mt.generation.arguments:add_translate_arguments",
        "smoe_mt.generation.command",
        "raw text -> translations",
        models="model",
    ),
    "serve": Command(
        "smoe_mt.serving.arguments:add_arguments",
        "smoe_mt.serving.command",
        "a model -> a page and an API (LibreTranslate's form) over HTTP",
        models="model",
    ),
    "checkpoint inspect": Command(
        "smoe_mt.checkpoints.arguments:add_inspect_arguments",
        "smoe_mt.checkpoints.inspection",
        "checkpoint -> its contents, and whether its bytes are intact",
        models="model",
    ),
    "checkpoint convert": Command(
        "smoe_mt.checkpoints.arguments:add_convert_arguments",
        "smoe_mt.checkpoints.edit.convert",
        "checkpoint -> another format; also reads fairseq's transformer",
        models="model",
    ),
    "checkpoint average": Command(
        "smoe_mt.checkpoints.arguments:add_average_arguments",
        "smoe_mt.checkpoints.edit.average",
        "checkpoints -> their mean, one checkpoint",
    ),
    "checkpoint moefy": Command(
        "smoe_mt.moefication.arguments:add_arguments",
        "smoe_mt.moefication.command",
        "dense checkpoint -> its FFNs cut into experts (MoEfication), or how sparsely they fire",
    ),
    "checkpoint prune": Command(
        "smoe_mt.pruning.arguments:add_arguments",
        "smoe_mt.pruning.command",
        "checkpoint -> one with fewer experts: similar ones are merged",
        models="model",
    ),
    "export": Command(
        "smoe_mt.export.arguments:add_arguments",
        "smoe_mt.export.command",
        "checkpoint -> a folder to translate with, for smoe-mt, transformers or CTranslate2",
        models="run",
    ),
    "evaluate": Command(
        "smoe_mt.evaluation.arguments:add_arguments",
        "smoe_mt.evaluation.command",
        "checkpoints -> BLEU and chrF++ of every direction",
        models="runs",
    ),
    "analyse": Command(
        "smoe_mt.analysis.arguments:add_arguments",
        "smoe_mt.analysis.command",
        "checkpoint -> requested capacity, as numbers and figures",
        models="run",
    ),
    "flops": Command(
        "smoe_mt.analysis.cost_command:add_arguments",
        "smoe_mt.analysis.cost_command",
        "config -> parameters and FLOPs per token, compared with the paper's",
    ),
    "plan": Command(
        "smoe_mt.analysis.plan_command:add_arguments",
        "smoe_mt.analysis.plan_command",
        "config, devices -> predicted time, traffic and memory of training",
    ),
    "report": Command(
        "smoe_mt.report.arguments:add_arguments",
        "smoe_mt.report.command",
        "runs -> one page: tables, curves, figures, data, configuration",
        models="runs",
    ),
    "study": Command(
        "smoe_mt.study.arguments:add_arguments",
        "smoe_mt.study.command",
        "plan of systems and seeds -> trainings, scores, comparison over seeds",
    ),
    "path": Command(
        "smoe_mt.path_command:add_arguments",
        "smoe_mt.path_command",
        "folders of the plugin, its configs and scripts; what it patches in fairseq",
    ),
}

SHORT_NAMES = {"average": "checkpoint average"}

#: What our commands are called elsewhere.
OTHER_NAMES = {
    "analyze": "analyse",
    "analysis": "analyse",
    "generate": "translate",
    "score": "evaluate",
    "test": "evaluate",
    "preprocess": "prepare",
    "inspect": "checkpoint inspect",
    "convert": "checkpoint convert",
    "cost": "flops",
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``smoe-mt``; `argv` without the program's name. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with standard_streams():
        try:
            code = _run(arguments)
            sys.stdout.flush()
            return code
        except UserError as error:
            print(one_line(error), file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader has gone
            drop_output()
            return EXIT_BROKEN_PIPE
        except OSError as error:  # a name too long, a failing disk: what the command itself does not explain
            if error.filename == STDOUT:
                drop_output()
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            print(one_line(UserError(f"{where}{reason_of(error)}")), file=sys.stderr)
            return EXIT_USER_ERROR


def _run(arguments: list[str]) -> int:
    check_output_is_open()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version":
        print(f"smoe-mt {version()}")
        return 0
    if arguments[1:] in ([], ["-h"], ["--help"]) and any(name.startswith(f"{arguments[0]} ") for name in COMMANDS):
        print(_overview(f"{arguments[0]} "))
        return 0 if arguments[1:] else EXIT_USER_ERROR
    name, rest = _command(arguments)
    leave_out_unused()
    with passive_waiting(), plain_messages(name), naming_flags():
        command = COMMANDS[name]
        parser = Parser(prog=f"smoe-mt {name}", description=command.help)
        command.add_arguments(parser)
        try:
            args = parser.parse_intermixed_args(rest)
            command.check(args)
            import_at_once(command.module).run(args)
        except SystemExit as stop:  # argparse, after --help; a training that is asked to leave
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, of one or two words, and the other arguments. UserError for an unknown command."""
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    if arguments[0] in SHORT_NAMES:
        return SHORT_NAMES[arguments[0]], arguments[1:]
    first = f"{arguments[0]} "
    begun = {name.removeprefix(first): name for name in COMMANDS if name.startswith(first)}
    given = " ".join(arguments[: 2 if begun else 1])
    likely = _likely(given.removeprefix(first), begun or {**{name: name for name in COMMANDS}, **OTHER_NAMES})
    hint = f"did you mean {likely!r}?" if likely else f"there are {', '.join(begun.values() or COMMANDS)}"
    raise UserError(f"unknown command {given!r}: {hint}")


def _likely(given: str, names: Mapping[str, str]) -> str | None:
    """The command that was probably meant: of this very name, the only one that begins so, or the one spelt most like it."""
    begun = [name for name in names if len(given) > 1 and name.startswith(given)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(given, names, n=1)
    return names[near[0]] if near else None


def _overview(first_word: str = "") -> str:
    """All commands, or those that begin with this word."""
    chosen = {name: command for name, command in COMMANDS.items() if name.startswith(first_word)}
    commands = "\n".join(f"  {name:<20} {command.help}" for name, command in chosen.items())
    return f"usage: smoe-mt COMMAND ...\n\n{commands}\n\nsmoe-mt COMMAND --help lists the options of a command; smoe-mt --version prints the version."


def version() -> str:
    """The version of the installed package, or `unknown` where it is used without being installed."""
    try:
        return metadata.version("smoe_mt")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def passive_waiting() -> Iterator[None]:
    """Let idle OpenMP threads sleep. Threads that spin keep others from their cores: experts that are computed concurrently lose a
    tenth of their time. OpenMP reads the variable when torch is loaded, which is later.
    """
    name = "OMP_WAIT_POLICY"
    before = os.environ.get(name)
    os.environ.setdefault(name, "passive")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


@contextmanager
def plain_messages(command: str) -> Iterator[None]:
    """Warnings in one line and none of libraries; except in training, no progress notes of theirs either."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    # fairseq's task of that name asks for tensorboardX when it is imported; nothing here needs it.
    talkative = logging.getLogger(TALKATIVE)
    threshold, level = logging.root.manager.disable, talkative.level
    # A threshold that holds whatever level a library sets: fairseq's import makes the root logger the most talkative.
    logging.disable(logging.DEBUG if command == "train" else logging.INFO)
    talkative.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show  # type: ignore[assignment]
            warnings.filterwarnings("ignore", module=r"(fairseq|fairseq_cli|torch|hydra|omegaconf)(\.|$)")
            yield
    finally:
        logging.disable(threshold)
        talkative.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
