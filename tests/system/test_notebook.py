"""The notebooks of the docs run, and what they show was made by their code.

``python -m tests.system.test_notebook`` runs them and stores what they print.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.paths import PACKAGE

NOTEBOOKS = sorted((PACKAGE.parent / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 600  # a cell, at most, on a machine that has other things to do
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|opt|usr|var)/")


def executed(path: Path) -> Any:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True
    ).execute()
    for cell in (one for one in notebook.cells if one.cell_type == "code"):  # without bars of progress
        cell["outputs"] = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def printed(notebook: Any) -> str:
    """All text among the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(str({**output, "data": {**output.get("data", {}), "image/png": ""}}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="the extra 'test' is not installed")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent), prepend=os.pathsep)
    assert "BLEU" in printed(executed(path))  # a cell that fails raises


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_without_running_it(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra 'test' is not installed")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs) and "chrF++" in printed(notebook)
    assert OF_A_MACHINE.findall(printed(notebook)) == []


if __name__ == "__main__":
    import nbformat

    for each in NOTEBOOKS:
        nbformat.write(executed(each), each)
