"""Systems by name: those of the package, those of a file, and those that there are not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS, System
from smoe_mt.moe.registry import Systems

RECORD = SYSTEMS["vanilla"]
FILE = """
from dataclasses import replace
from smoe_mt.moe import SYSTEMS, register_system
register_system(replace(SYSTEMS["vanilla"], name="mine"))
"""


def named(name: str) -> System:
    return replace(RECORD, name=name)


def asked(code: str, systems: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own."""
    environment = {**os.environ, "SMOE_MT_SYSTEMS": systems}
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)


def test_the_papers_systems_come_first() -> None:
    known = ["vanilla", "switch", "eom", "cmr", "stacking", "stratified"]
    assert list(SYSTEMS)[:6] == known and all(SYSTEMS[name].name == name for name in SYSTEMS)


def test_an_unknown_name_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown system 'nomoe': there are vanilla, .*SMOE_MT_SYSTEMS"):
        SYSTEMS["nomoe"]
    assert "nomoe" not in SYSTEMS and SYSTEMS.get("nomoe") is None


def test_a_name_is_given_once() -> None:
    systems = Systems(RECORD)
    systems.register(named("mine"))
    for taken in ("vanilla", "mine", "none"):
        with pytest.raises(UserError, match=f"there is a system '{taken}' already"):
            systems.register(named(taken))
    systems.register(RECORD)
    assert list(systems)[:2] == ["vanilla", "mine"]


def test_after_settings_have_been_made_it_is_too_late() -> None:
    systems = Systems(RECORD)
    systems.close()
    with pytest.raises(UserError, match="system 'mine' comes too late.*SMOE_MT_SYSTEMS"):
        systems.register(named("mine"))


def test_a_file_of_the_environment_is_read_without_fairseq(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    code = "import sys; from smoe_mt.moe import SYSTEMS; print(SYSTEMS['mine'].name, 'fairseq' in sys.modules)"
    done = asked(code, str(tmp_path / "mine.py"))
    assert done.stdout.split() == ["mine", "False"], done.stderr


@pytest.mark.parametrize(
    ("content", "words"), [(None, "there is no file"), ("1 / 0", "cannot be imported: ZeroDivisionError")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    done = asked("import smoe_mt.moe as m; list(m.SYSTEMS)", str(tmp_path / "mine.py"))
    assert words in done.stderr and "mine.py" in done.stderr


@dataclass(frozen=True)
class NoRange:
    mine_size: int = field(default=3, metadata={"help": "mine: a size"})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"name": "my moe"}, "small letters, digits and underscores"),
        ({"experts_setting": "groups"}, "experts_setting is 'num_experts' or 'strata', not 'groups'"),
        ({"options": NoRange}, "option mine_size is a number and needs a range"),
        ({"loss_options": NoRange}, "option mine_size is a number and needs a range"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(RECORD, **record)


def test_fairseq_train_names_a_file_that_cannot_be_imported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0")
    code = "import smoe_mt.tasks.fairseq_user_dir"  # what fairseq does with --user-dir
    done = asked(code, str(tmp_path / "mine.py"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "mine.py cannot be imported: ZeroDivisionError" in done.stderr
