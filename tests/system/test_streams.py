"""``smoe-mt`` with standard streams that are closed, full, or end too early: one line, no trace, the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TrainedRun

FULL = Path("/dev/full")


def shell(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`$MT` is the command, `$1` and so on are the arguments."""
    environment = {**os.environ, "MT": f"{sys.executable} -m smoe_mt.cli", **variables}
    command = ["bash", "-c", script, "bash", *arguments]
    return subprocess.run(command, check=False, capture_output=True, env=environment, timeout=120, text=True)


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("options", ["--help", "--version", "path patches", "evaluate --help"])
def test_a_full_output_is_said(options: str) -> None:
    done = shell(f"$MT {options} > /dev/full")
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_a_closed_output_is_said_before_any_work() -> None:
    done = shell("$MT evaluate no-such-run >&-")
    assert done.returncode == 2
    assert done.stderr == "error: standard output is closed; send it to a file or to /dev/null\n"


def test_a_reader_that_goes_is_no_error() -> None:
    done = shell("$MT path patches | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_closed_error_output_keeps_the_exit_code(tmp_path: Path) -> None:
    assert shell("$MT translate -m no-such-run /no/such/file 2>&-").returncode == 2


def test_a_closed_input_is_said(trained_run: TrainedRun) -> None:
    done = shell("$MT translate -m $1 -s aa -t en <&-", str(trained_run.folder))
    assert (done.returncode, done.stderr) == (2, "error: standard input is closed; name a file, or pipe the text in\n")


def test_text_is_utf8_whatever_the_encoding_of_the_terminal(trained_run: TrainedRun) -> None:
    script = 'printf "fofo \\303\\245\\n" | $MT translate -m $1 -s aa -t en --device cpu --json -'
    done = shell(script, str(trained_run.folder), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert '"source": "fofo å"' in done.stdout
