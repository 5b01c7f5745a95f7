"""Both precisions of a training on a CPU are timed over the same batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bench_cpu_bf16
from tests.toy import make_toy_folder


@pytest.mark.slow
def test_a_row_for_each_width_and_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, table = make_toy_folder(tmp_path / "data"), tmp_path / "table.json"
    sizes = ["--widths", "8", "16", "--updates", "5", "--max-tokens", "100", "--json", str(table)]
    monkeypatch.setattr(sys, "argv", ["bench_cpu_bf16", str(data), *sizes])
    bench_cpu_bf16.main()
    rows = json.loads(table.read_text())["rows"]
    assert [(row["system"], row["d"]) for row in rows] == [
        (system, width) for width in (8, 16) for system in ("dense", "smoe_2_2_2_2")
    ]
    assert all(row["float32 loss"] == pytest.approx(row["bfloat16 loss"], rel=0.05) for row in rows)
