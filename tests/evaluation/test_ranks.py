"""Sentences shared out over processes."""

from __future__ import annotations

import pytest

from smoe_mt.errors import UserError
from smoe_mt.evaluation.ranks import Ranks, open_ranks


def test_shares_cover_all_and_are_alike() -> None:
    lengths = [7, 1, 900, 5, 5, 3, 800]
    shares = [Ranks(rank, 3).share(lengths) for rank in range(3)]
    assert sorted(place for share in shares for place in share) == list(range(7))
    assert {len(share) for share in shares} == {2, 3}
    assert all([lengths[place] for place in share] == sorted(lengths[place] for place in share) for share in shares)
    assert not any({2, 6} <= set(share) for share in shares), "one process has both of the long ones"


def test_processes_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT not set: start the processes with torchrun"
    with pytest.raises(UserError, match=message), open_ranks():
        pass


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_ranks() as ranks:
        assert ranks.first and ranks.tell("x") == "x" and ranks.gather("y") == ["y"] and ranks.device("auto") == "auto"
