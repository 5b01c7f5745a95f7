"""What the patches rest on is still there, and putting them in place is done once."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq_cli import eval_lm, generate, train, validate

from smoe_mt.fairseq_patches import IN_TRANSFORMERS, PATCHES, PRIVATE_USES, SETTINGS, apply
from smoe_mt.fairseq_patches.distributed import is_training
from smoe_mt.fairseq_patches.patch import Patch, PrivateUse, _replaced, apply_patch, resolve
from smoe_mt.path_command import patch_table

targets = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.target)


@targets
def test_target_has_the_parameters_that_its_replacement_counts_on(patch: Patch) -> None:
    original, _ = _replaced[patch.target]
    if patch.signature is None:
        assert callable(original) or isinstance(original, property)
        return
    function = original.__func__ if isinstance(original, staticmethod) else original
    assert tuple(inspect.signature(function).parameters) == patch.signature


@targets
def test_target_is_the_librarys_own(patch: Patch) -> None:
    original, replacement = _replaced[patch.target]
    assert original is not replacement
    named = original.__func__ if isinstance(original, staticmethod) else getattr(original, "fget", original)
    assert not (getattr(named, "__module__", None) or "").startswith("smoe_mt")


@pytest.mark.parametrize("use", PRIVATE_USES, ids=lambda use: use.target)
def test_private_parts_in_use_are_there(use: PrivateUse) -> None:
    assert resolve(use.target) is not None
    name = use.target.rpartition(".")[2].removeprefix("build_")
    assert name in inspect.getsource(import_module(use.used_by)), f"{use.used_by} does not use it"


@pytest.mark.parametrize("change", IN_TRANSFORMERS, ids=lambda change: change.target)
def test_what_is_changed_in_transformers_is_there(change: PrivateUse) -> None:
    pytest.importorskip("transformers", minversion="5")
    assert resolve(change.target) is not None
    assert change.target.rpartition(".")[2] in inspect.getsource(import_module(change.used_by))


def test_applying_twice_changes_nothing() -> None:
    def current() -> list[Any]:
        owners = [(resolve(patch.target.rpartition(".")[0]), patch.target.rpartition(".")[2]) for patch in PATCHES]
        return [vars(owner)[name] for owner, name in owners]

    apply()
    before = current()
    apply()
    assert all(one is other for one, other in zip(before, current(), strict=True))


def test_copies_of_a_name_are_replaced_where_they_are_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    library, user, other = SimpleNamespace(f=len), SimpleNamespace(f=len), SimpleNamespace(f=max)
    monkeypatch.setitem(import_module("sys").modules, "toy_library", library)
    monkeypatch.setitem(import_module("sys").modules, "toy_user", user)
    monkeypatch.setitem(import_module("sys").modules, "toy_other", other)
    for _ in range(2):
        apply_patch(
            Patch("toy_library.f", lambda original: (original,), "", copies=("toy_user", "toy_other", "absent"))
        )
    assert library.f == user.f == (len,) and other.f is max
    del _replaced["toy_library.f"]


def test_only_fairseq_train_is_taken_for_a_training() -> None:
    assert is_training(train.main)
    assert not any(map(is_training, (generate.main, validate.main, eval_lm.main)))


def test_the_table_has_every_patch_with_its_reason() -> None:
    table = patch_table()
    assert all(
        one.target in table and one.reason in table for one in (*PATCHES, *SETTINGS, *PRIVATE_USES, *IN_TRANSFORMERS)
    )
