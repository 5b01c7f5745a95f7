"""Some inputs of the fuzzer; ``python -m tests.system.fuzz`` tries as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TrainedRun
from tests.system import fuzz

INPUTS, SEED = 300, 1


@pytest.fixture(scope="module")
def home(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> fuzz.Home:
    return fuzz.make_home(tmp_path_factory.mktemp("fuzz"), trained_run.folder, trained_run.data)


def test_no_input_ends_in_a_trace(home: fuzz.Home) -> None:
    found = [f"#{number} {each}: {wrong}" for number, each, wrong in fuzz.failing(range(INPUTS), SEED, home)]
    assert not found, "\n".join(found)


def test_an_input_is_the_same_whenever_it_is_made() -> None:
    assert [fuzz.input_number(n, 3) for n in range(50)] == [fuzz.input_number(n, 3) for n in range(50)]
    assert fuzz.input_number(7, 3) != fuzz.input_number(7, 4)


@pytest.mark.parametrize(
    ("code", "stderr", "trace"),
    [
        (1, "", ""),
        (2, "", ""),
        (2, "error: a\nerror: b\n", ""),
        (0, "error: a\n", ""),
        (2, "error: a\nmore\n", ""),
        (2, "error: a\n", "x"),
    ],
)
def test_what_fails(code: int, stderr: str, trace: str) -> None:
    assert fuzz.Outcome(code, stderr, trace).wrong()


def test_one_line_of_error_is_well() -> None:
    assert fuzz.Outcome(2, "warning: x\nerror: a\n").wrong() is None and fuzz.Outcome(0, "").wrong() is None


def test_a_damaged_file_is_put_back(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"a": [1]}')
    for way in fuzz.damage.NAMES:
        with fuzz.damage.damaged(str(file), f"{way} 3"):
            assert way != "empty" or not file.read_text()
            assert way != "pipe" or file.is_fifo()
        assert file.read_text() == '{"a": [1]}'
