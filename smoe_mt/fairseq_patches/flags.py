"""The flags of fairseq's command lines, checked when they are parsed: one line for a wrong one, and no page of usage.

fairseq evaluates the text of some flags (``--lr``), and what it says of a wrong one is a stack trace.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from smoe_mt.allowed.config import check_flags
from smoe_mt.allowed.kinds import shown
from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches.patch import Patch


def parse_args_and_arch(original: Any) -> Any:
    """Parses the flags of a command line of fairseq, and checks what they say."""

    @wraps(original)
    def parse(parser: argparse.ArgumentParser, *args: Any, modify_parser: Any = None, **kwargs: Any) -> Any:
        def modify(parser: argparse.ArgumentParser) -> None:
            if modify_parser is not None:
                modify_parser(parser)
            speak_plainly(parser)

        try:
            found = original(parser, *args, modify_parser=modify, **kwargs)
        except UserError:
            raise
        except ValueError as error:  # what fairseq says of flags that do not go together
            raise UserError(str(error)) from error
        check_flags(vars(found[0] if isinstance(found, tuple) else found))
        return found

    return parse


def speak_plainly(parser: argparse.ArgumentParser) -> None:
    """Let a parser raise UserError for what it cannot read. Doing it again covers what was added since."""

    def error(message: str) -> NoReturn:
        raise UserError(f"{message} (--help says more)")

    parser.error = error  # type: ignore[method-assign]
    for action in parser._actions:
        if action.type is not None and not getattr(action.type, "speaks_plainly", False):
            action.type = _plain(action.type)  # type: ignore[arg-type]


def _plain(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def plain(text: str) -> Any:
        try:
            return read(text)
        except argparse.ArgumentTypeError:
            raise
        except Exception as error:  # of Python code, where fairseq takes the text for some
            raise argparse.ArgumentTypeError(f"{shown(text)!r} cannot be read ({shown(error)})") from error

    plain.speaks_plainly = True  # type: ignore[attr-defined]
    return plain


PATCHES = (
    Patch(
        "fairseq.options.parse_args_and_arch",
        parse_args_and_arch,
        "a wrong flag is reported in one line, before data is opened",
        ("parser", "input_args", "parse_known", "suppress_defaults", "modify_parser"),
    ),
)
