"""What several ranks cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import train, validate
from torch import distributed

from smoe_mt.errors import UserError
from smoe_mt.training.launch_ranks import join_ranks
from tests.training.forked import config

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("smoe_mt.training.launch_ranks._be_quiet", lambda: None)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--distributed-world-size 3", "distributed_world_size=3, but torchrun started 4 processes"),
        ("--ddp-backend fully_sharded", "ddp_backend=fully_sharded needs fairscale.*--expert-parallel-size"),
        ("--ddp-backend slowmo", "ddp_backend=slowmo needs fairscale"),
        ("--zero-sharding os", "zero_sharding=os needs fairscale"),
    ],
)
def test_what_ranks_cannot_have(options: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        join_ranks(config(tmp_path, tmp_path, options=options))


def test_sharding_is_refused_of_one_process_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs fairscale"):
        distributed_utils.call_main(
            config(tmp_path, tmp_path, options="--ddp-backend fully_sharded --max-update 1"), train.main
        )


@pytest.mark.usefixtures("torchrun")
def test_other_command_lines_stay_processes_of_their_own(tmp_path: Path) -> None:
    cfg = config(tmp_path, tmp_path)
    called: list[Any] = []

    def main(cfg: Any) -> None:
        called.append(cfg)

    assert not hasattr(validate, "Trainer")  # by which a training is known
    distributed_utils.call_main(cfg, main)
    assert called == [cfg] and not distributed.is_initialized()
    assert cfg.distributed_training.distributed_world_size == 1


def test_a_process_alone_needs_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    cfg = config(tmp_path, tmp_path)
    join_ranks(cfg)
    assert not distributed.is_initialized() and cfg.distributed_training.distributed_init_method is None
