"""Parallel files of the user's instead of a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.evaluation.parallel_files import ParallelFiles


def parallel_files(
    folder: Path, source: bytes = b"a\n\nc\n", reference: bytes = b"x\ny\nz", name: str = "nso-en"
) -> ParallelFiles:
    (folder / "s").write_bytes(source)
    (folder / "r").write_bytes(reference)
    return ParallelFiles(folder / "s", folder / "r", name)


def test_lines_belong_together(tmp_path: Path) -> None:
    corpus = parallel_files(tmp_path).read()
    assert (corpus.direction, corpus.sources, corpus.references) == ("nso-en", ("a", "", "c"), ("x", "y", "z"))
    assert (corpus.first(2).references, corpus.first(2).left_out) == (("x", "y"), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"source": b"a\nb\n"}, "/s has 2 lines and .*/r has 3"),
        ({"source": b"", "reference": b""}, "/s is empty"),
        ({"reference": b"x\n\xff\nz\n"}, "/r, line 2: not UTF-8"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, text: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parallel_files(tmp_path, **text).read()


def test_a_missing_file(tmp_path: Path) -> None:
    text = parallel_files(tmp_path)
    text.reference.unlink()
    with pytest.raises(UserError, match="/r: no such file"):
        text.read()
