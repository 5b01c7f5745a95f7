"""The libraries still say what decisions rest on."""

from __future__ import annotations

import inspect

import fairseq.trainer
import fairseq_cli.train
import pytest
import torch
from hydra._internal import defaults_list
from torch import distributed

from benchmarks.local_ranks import on_ranks
from smoe_mt.library_messages import COLLECTIVE_BROKEN, SEARCH_PATH, TRAINING_DONE, WEIGHTS_DO_NOT_FIT


def test_fairseq_says_that_weights_do_not_fit() -> None:
    assert WEIGHTS_DO_NOT_FIT in inspect.getsource(fairseq.trainer)


def test_fairseq_says_that_a_training_is_done() -> None:
    assert f'logger.info("{TRAINING_DONE}' in inspect.getsource(fairseq_cli.train)


def test_hydra_names_its_search_path() -> None:
    assert SEARCH_PATH in inspect.getsource(defaults_list)


def alone(rank: int) -> str:
    """What torch says on rank 0 when rank 1 has gone; the other two keep the group's barrier."""
    pair = distributed.new_group([0, 1])
    third = distributed.new_group([2, 0])
    distributed.barrier()  # else rank 1 may go while rank 0 still connects to it
    if rank == 1:
        distributed.destroy_process_group(pair)
        return ""
    if rank == 2:
        distributed.barrier(third)
        return ""
    with pytest.raises(RuntimeError) as caught:
        distributed.all_reduce(torch.ones(1), group=pair)
    distributed.barrier(third)
    return str(caught.value)


def test_torch_says_that_a_connection_of_a_collective_is_broken() -> None:
    said = on_ranks(3, alone)[0]
    assert any(word in said for word in COLLECTIVE_BROKEN), said
