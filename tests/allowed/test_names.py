"""Names in overrides: unknown ones are told, before torch is imported, with what was meant."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from fairseq.dataclass.configs import FairseqConfig

from smoe_mt.allowed.keys import GROUPS
from smoe_mt.allowed.names import COMPLETE, SECTIONS, check_names, known_settings
from smoe_mt.errors import UserError
from smoe_mt.paths import configs
from smoe_mt.training.own_settings import OWN_SETTINGS


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.dropuot=0.1", "model.dropout"),
        ("modle=dense", "model"),
        ("optimisation.lr=0.1", "optimization.lr"),
        ("model.max_tokens=9", "dataset.max_tokens"),
        ("common.sede=1", "common.seed"),
        ("model=smoe_8_9", "smoe_8_8"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(override: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        check_names([override], configs(), ours=True)


def test_only_our_models_are_listed() -> None:
    with pytest.raises(UserError) as caught:
        check_names(["model=wave"], configs(), ours=True)
    assert "dense" in str(caught.value) and "wav2vec" not in str(caught.value)


def test_settings_of_other_classes_are_left_to_hydra() -> None:
    check_names(["model._name=transformer", "model.no_cross_attention=true"], configs(), ours=True)
    check_names(["model.no_cross_attention=true"], configs(), ours=False)
    check_names(["hydra.sweep.dir=x", "hydra/launcher=basic", "+note=1"], configs(), ours=True)


def test_the_parts_are_fairseqs_and_complete() -> None:
    parts = {field.name: field.default for field in dataclasses.fields(FairseqConfig)}
    assert set(SECTIONS) == set(parts) - {"_name"}
    for part in COMPLETE:
        assert {field.name for field in dataclasses.fields(parts[part])} - {"_name"} == set(GROUPS[part])


def test_every_setting_of_ours_is_in_the_table_or_in_a_config() -> None:
    """So that none of them is refused before the options of systems are known."""
    known = known_settings(configs())
    own = {f"{part}.{one.name}" for part, settings in OWN_SETTINGS.items() for one in dataclasses.fields(settings)}
    assert own - {"task.seed", "task.train_subset"} <= known  # which follow common.seed and dataset.train_subset


@pytest.mark.parametrize("override", ["model.dropuot=1", "model=smoe_9", "modle=dense", "model.dropout=7"])
def test_torch_is_not_imported_for_a_wrong_override(override: str) -> None:
    program = (
        "import sys; from smoe_mt.cli import main; code = main(['train', sys.argv[1]]); "
        "sys.exit(code != 2 or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, override], check=False).returncode == 0
