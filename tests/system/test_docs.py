"""The README, the docs and the facts that are written down twice agree with the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smoe_mt
from smoe_mt.moe.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TOP_LEVEL = ("smoe_mt", "data_prep", "configs", "scripts", "benchmarks", "tests", "docs")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"`((?:{'|'.join(TOP_LEVEL)})/[\w./]*)`")
MODULE = re.compile(r"python -m ((?:benchmarks|tests|data_prep|smoe_mt)(?:\.\w+)*)")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def _broken(page: Path) -> Iterator[str]:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield link


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=_name)
def test_links_of_the_top_level_lead_somewhere(page: Path) -> None:
    assert list(_broken(page)) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("## A heading\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#a-heading) [b](https://example.org) [c](gone.md) [d](there.md#gone)", encoding="utf-8"
    )
    assert list(_broken(page)) == ["gone.md", "there.md#gone"]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_that_docs_name_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    missing = {path for path in named if "NAME" not in path and not (ROOT / path).exists()}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_modules_that_docs_run_exist(page: Path) -> None:
    modules = {ROOT / module.replace(".", "/") for module in MODULE.findall(page.read_text(encoding="utf-8"))}
    assert [module for module in modules if not (module.with_suffix(".py").exists() or module.is_dir())] == []


def test_the_readme_is_short_and_names_the_two_scripts() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert "scripts/quickstart.sh" in readme and "scripts/test.sh" in readme


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [smoe_mt.__version__]


def test_setup_reads_the_version_of_the_package() -> None:
    """No number of its own, which could differ."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "version=VERSION" in setup and smoe_mt.__version__ not in setup


def test_a_wheel_has_the_scripts_that_people_run() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for_developers = {"test.sh", "docs.sh"}  # they need the repository
    scripts = {path.name for path in (ROOT / "scripts").glob("*.sh")}
    assert {name for name in scripts if f'"{name}"' in setup} == scripts - for_developers


def test_the_changelog_has_an_entry_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {smoe_mt.__version__}" in changelog.replace("[", "").replace("]", "")


def test_markers_are_registered() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for marker in ("slow", "ranks", "gpu"):
        assert f'"{marker}: ' in settings


@pytest.mark.slow
def test_the_example_of_a_new_system_conforms(tmp_path: Path) -> None:
    """The code of docs/new_system.md, in a file of its own, passes the suite that the page names."""
    page = (ROOT / "docs" / "new_system.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", page, re.DOTALL)
    file = tmp_path / "mine.py"
    file.write_text(code, encoding="utf-8")
    suite = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/moe/test_conformance.py",
        "-k",
        "mine",
    ]
    environment = {**os.environ, "SMOE_MT_SYSTEMS": str(file), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(suite, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_docs_have_every_system(name: str) -> None:
    """A row in the tables of the README and of the page of systems, and there a section or a link to a page of its own."""
    systems = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    for text in ((ROOT / "README.md").read_text(encoding="utf-8"), systems):
        assert re.search(rf"^\|[^|]*`{name}`", text, re.MULTILINE)
    section = re.search(rf"^## .*\b{name}\b", systems, re.MULTILINE)
    row = re.search(rf"^\|[^|]*`{name}`.*\]\((systems/\w+\.md)\)", systems, re.MULTILINE)
    assert section or (row and (ROOT / "docs" / row[1]).is_file())
