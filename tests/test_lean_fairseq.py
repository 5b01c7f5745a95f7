"""fairseq's first import: what is left out, and that a program's logging stays as it was."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from smoe_mt.lean_fairseq import UNUSED


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_the_translator_prints_nothing_and_leaves_the_root_logger() -> None:
    program = (
        "import logging\n"
        "before = logging.root.level, list(logging.root.handlers)\n"
        "from smoe_mt import Translator\n"
        "assert (logging.root.level, logging.root.handlers) == before, logging.root.handlers\n"
    )
    assert python(program) == ""


def test_registering_leaves_the_root_logger() -> None:
    program = (
        "import logging, smoe_mt\n"
        "before = logging.root.level, list(logging.root.handlers)\n"
        "smoe_mt.register()\n"
        "assert (logging.root.level, logging.root.handlers) == before, logging.root.handlers\n"
    )
    assert python(program) == ""


def test_slow_libraries_are_left_out_and_the_plugin_registers() -> None:
    program = (
        "import sys\n"
        "from smoe_mt.lean_fairseq import leave_out_unused\n"
        "leave_out_unused()\n"
        "import smoe_mt; smoe_mt.register()\n"
        "print(sorted({'sklearn', 'scipy', 'pandas'} & set(sys.modules)))\n"
    )
    assert python(program) == "[]\n"


@pytest.mark.parametrize("name", UNUSED)
def test_left_out_modules_are_there_and_need_slow_libraries(name: str) -> None:
    """Where fairseq has moved them, or they need nothing slow any more, the list is out of date."""
    fairseq = importlib.util.find_spec("fairseq")
    assert fairseq is not None and fairseq.origin is not None
    text = Path(fairseq.origin).parent.joinpath(*name.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
    assert "sklearn" in text or "sentence_prediction import" in text
