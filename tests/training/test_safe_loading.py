from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from smoe_mt.errors import UserError
from smoe_mt.fairseq_patches import apply


@pytest.fixture(autouse=True)
def shims() -> None:
    apply()


def test_a_cut_checkpoint_is_a_users_error_in_fairseqs_own_loading(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"model": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut.pt: not a whole fairseq checkpoint"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


class Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.touched),)


@pytest.mark.parametrize("saved_by", ["torch", "pickle"])
def test_a_checkpoint_never_runs_code(tmp_path: Path, saved_by: str) -> None:
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    if saved_by == "torch":
        torch.save({"model": Malicious(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(touched)))
    with pytest.raises(UserError, match="evil.pt"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not touched.exists()


def test_putting_the_shims_in_place_twice_changes_nothing() -> None:
    before = checkpoint_utils.load_checkpoint_to_cpu
    apply()
    assert checkpoint_utils.load_checkpoint_to_cpu is before
