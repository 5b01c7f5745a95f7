"""Sums over logging outputs, with one transfer."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.criterions.host_sums import host_sums

LOGS = [
    {"loss": torch.tensor(0.5), "asked": torch.tensor([1, 2]), "ntokens": 3, "kept": {"of": "another kind"}},
    {"loss": torch.tensor(0.25), "asked": torch.tensor([3, 4]), "ntokens": 4, "late": torch.tensor(7.0).double()},
]


def test_each_key_is_summed() -> None:
    assert host_sums(LOGS) == {"loss": 0.75, "asked": [4, 6], "ntokens": 7, "late": 7}


def test_sums_are_in_double_precision() -> None:
    large, small = torch.tensor(2.0**24), torch.tensor(1.0)
    assert host_sums([{"loss": large}, {"loss": small}]) == {"loss": 2**24 + 1}


def test_the_device_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> object:
        reads.append(tensor.numel())
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    host_sums(LOGS)
    assert reads == [7]


def test_of_nothing() -> None:
    assert host_sums([]) == {}
