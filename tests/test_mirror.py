"""Tests lie where the sources lie: tests/PACKAGE/test_NAME.py tests PACKAGE/NAME.py, or the package of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.paths import PACKAGE

ROOT = PACKAGE.parent
TESTS = ROOT / "tests"
#: Whole command lines, several processes, all systems at once: tests of no single module.
SYSTEM = "system"
#: Packages beside smoe_mt, whose tests lie under their own names.
BESIDE = ("data_prep", "benchmarks", "configs", "scripts")
#: Tests of the project or the engine as a whole, and of the suite itself.
OF_THE_WHOLE = {
    "test_imports.py",
    "test_mirror.py",
    "models/test_gpu.py",
    *(f"moe/test_{name}.py" for name in ("conformance", "golden", "gpu")),
    # The Triton kernels of a block together.
    *(f"moe/kernels/test_triton_{name}.py" for name in ("equality", "gpu", "launches", "offline", "operator")),
}


def source_of(test: Path) -> list[Path]:
    """Where the source of a test may be."""
    folder, name = test.relative_to(TESTS).parent, test.stem.removeprefix("test_")
    home = ROOT if (folder.parts or (name,))[0] in BESIDE else PACKAGE
    return [home / folder / f"{name}.py", home / folder / name]


@pytest.mark.parametrize("test", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_has_a_source(test: Path) -> None:
    inside = test.relative_to(TESTS)
    if inside.parts[0] == SYSTEM or inside.as_posix() in OF_THE_WHOLE:
        return
    assert any(source.exists() for source in source_of(test)), f"no {' or '.join(map(str, source_of(test)))}"
