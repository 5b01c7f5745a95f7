"""What torchrun says in the environment."""

from __future__ import annotations

import pytest

from smoe_mt.errors import UserError
from smoe_mt.process_group import Launch, launch_in

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_what_torchrun_says() -> None:
    assert launch_in(TORCHRUN) == Launch(rank=2, size=4, local_rank=1)
    assert launch_in({}) is None and launch_in({"WORLD_SIZE": "1"}) is None


def test_a_part_of_it_is_refused() -> None:
    with pytest.raises(
        UserError, match="WORLD_SIZE is 4, but MASTER_ADDR, MASTER_PORT not set: start .* with torchrun"
    ):
        launch_in({"RANK": "0", "WORLD_SIZE": "4"})
