"""Modules depend on each other in one direction: no circles, no arrow from a lower layer to a higher one.

All imports count, those within functions and those for types too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from smoe_mt.paths import PACKAGE

ROOT = PACKAGE.parent
#: From the ground up. A module belongs to the longest name here that it begins with.
LAYERS = (
    # single files that need nothing of the project but errors and each other
    ("smoe_mt.errors", "smoe_mt.context"),
    ("smoe_mt.ground",),
    ("smoe_mt.paper",),
    ("data_prep",),
    ("smoe_mt.moe",),
    ("smoe_mt.search",),
    ("smoe_mt.tasks",),
    ("smoe_mt.models",),
    ("smoe_mt.criterions",),
    ("smoe_mt.checkpoints",),
    ("smoe_mt.training",),
    ("smoe_mt.fairseq_patches",),
    ("smoe_mt.registration", "smoe_mt.path_command"),
    ("smoe_mt.launch",),
    ("smoe_mt.generation",),
    ("smoe_mt.export",),
    ("smoe_mt.hf",),
    ("smoe_mt.serving",),
    ("smoe_mt.evaluation",),
    ("smoe_mt.analysis",),
    ("smoe_mt.moefication",),
    ("smoe_mt.pruning",),
    ("smoe_mt.report",),
    ("smoe_mt.study",),
    # what fairseq, a program and a person come in by
    ("smoe_mt", "smoe_mt.cli", "smoe_mt.tasks.fairseq_user_dir"),
)
PLACE = {name: place for place, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    found = {}
    for top in ("smoe_mt", "data_prep"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # The version stands in the outermost file, which Python has read before any other.
            inside = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
            names = [name if name in known else node.module for name in inside]
        else:
            continue
        yield from (name for name in names if name in known and name != module)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {module: set(imports(module, path, known)) for module, path in known.items()}


def layer(module: str) -> int:
    name = module
    if name in ("smoe_mt",):
        return PLACE["smoe_mt"]
    while name not in PLACE or name == "smoe_mt":
        name = name.rpartition(".")[0]
        if name in ("", "smoe_mt"):
            return PLACE["smoe_mt.ground"]  # a file beside the packages
    return PLACE[name]


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for other in sorted(edges.get(name, ())):
                found = walk(other, [*way, name])
                if found:
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := walk(name, []))), [])


def test_no_circles_between_files() -> None:
    assert circle(graph()) == []


def test_no_circles_between_packages() -> None:
    packages: dict[str, set[str]] = {}
    for module, others in graph().items():
        own = LAYERS[layer(module)][0]
        packages.setdefault(own, set()).update(LAYERS[layer(other)][0] for other in others)
    assert circle({name: others - {name} for name, others in packages.items()}) == []


def test_no_arrows_upward() -> None:
    upward = {
        f"{module} -> {other}" for module, others in graph().items() for other in others if layer(other) > layer(module)
    }
    assert sorted(upward) == []


def test_the_engine_imports_torch_and_itself_alone() -> None:
    known = modules()
    for module, path in known.items():
        if layer(module) == PLACE["smoe_mt.moe"]:
            allowed = {PLACE["smoe_mt.moe"], PLACE["smoe_mt.errors"]}
            assert all(layer(name) in allowed for name in imports(module, path, known)), module
            assert not re.search(r"^\s*(from|import) fairseq", path.read_text(encoding="utf-8"), re.MULTILINE), module


def test_optional_libraries_do_not_slow_down_a_command() -> None:
    """transformers and CTranslate2 take seconds: what imports them with itself is smoe_mt.hf, which no module imports."""
    slow = {"transformers", "ctranslate2", "huggingface_hub"}
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        names += [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        if not module.startswith("smoe_mt.hf"):
            assert not slow & {name.split(".")[0] for name in names}, module
            assert not any(name.startswith("smoe_mt.hf") for name in names), module


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize(
    ("top", "above"),
    [("smoe_mt", ("tests", "benchmarks")), ("data_prep", ("tests", "benchmarks")), ("benchmarks", ("tests",))],
)
def test_no_package_imports_its_tests_or_benchmarks(top: str, above: tuple[str, ...]) -> None:
    for path in (ROOT / top).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in above for name in names), path
