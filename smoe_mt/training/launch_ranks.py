"""The ranks of one training: as torchrun starts them, found in the environment, joined and checked, with no further flags.

fairseq takes the number of ranks from the GPUs that it sees. On CPUs, or with one GPU on each of several machines, it would
train as many times as torchrun starts it, each process for itself and all into one folder.
"""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import open_dict
from torch import distributed

from smoe_mt.errors import UserError
from smoe_mt.process_group import Launch, launch_in, open_process_group
from smoe_mt.training import rank_failure

logger = logging.getLogger(__name__)

# The others wait while the first rank reads or writes a checkpoint, and for the slowest to start or to translate.
PATIENCE = 1800  # seconds
REPLACED = ("pytorch_ddp", "c10d")  # the first is fairseq's default
KEPT = ("legacy_ddp", "no_c10d")


def join_ranks(cfg: Any) -> None:
    """Make this process a rank of what torchrun started, and set `cfg.distributed_training` accordingly.

    Raises:
        UserError: settings that several ranks cannot have, or processes that do not find each other.
    """
    launch = launch_in(os.environ)
    settings = cfg.distributed_training
    if launch is not None:
        if launch.rank:
            _be_quiet()
        _set(cfg, launch)
    _check_sharding(settings)
    if settings.distributed_world_size > 1:
        _replace_backend(settings)
    seconds = settings.heartbeat_timeout if settings.heartbeat_timeout > 0 else PATIENCE
    if launch is not None and launch.size > 1:
        with open_dict(settings):
            settings.heartbeat_timeout = (
                -1
            )  # fairseq's own way would be an interrupt, which a waiting rank does not hear
        if not distributed.is_initialized():  # by an earlier job of a multirun
            _open_group(settings, launch, seconds)


def _be_quiet() -> None:
    """The first rank speaks; of the others, only what is wrong with them."""
    logging.getLogger().setLevel(logging.WARNING)
    warnings.simplefilter("ignore")


def _set(cfg: Any, launch: Launch) -> None:
    settings = cfg.distributed_training
    gpus = torch.cuda.device_count() if torch.cuda.is_available() and not cfg.common.cpu else 0
    if settings.distributed_world_size not in (launch.size, max(1, torch.cuda.device_count())):
        raise UserError(
            f"distributed_training.distributed_world_size={settings.distributed_world_size}, but torchrun started "
            f"{launch.size} processes: leave it out, or start as many"
        )
    if gpus and launch.local_rank >= gpus:
        raise UserError(
            f"rank {launch.rank} is number {launch.local_rank + 1} of this machine, which has {gpus} GPUs: start one process "
            "for each GPU (torchrun --nproc-per-node), or train on the CPU (common.cpu=true)"
        )
    with open_dict(cfg):
        settings.distributed_world_size = launch.size
        settings.distributed_rank = launch.rank
        settings.device_id = launch.local_rank if gpus else 0
        settings.distributed_no_spawn = True
        settings.distributed_backend = "nccl" if gpus else "gloo"
        settings.distributed_init_method = "env://" if launch.size > 1 else None


def _check_sharding(settings: Any) -> None:
    wanted = None
    if settings.ddp_backend not in (*REPLACED, *KEPT):
        wanted = f"ddp_backend={settings.ddp_backend}"
    elif settings.zero_sharding != "none":
        wanted = f"zero_sharding={settings.zero_sharding}"
    if wanted:
        raise UserError(
            f"distributed_training.{wanted} needs fairscale, which is no longer maintained and no part of this installation: "
            "leave it out. What is large here are the experts, and those can be spread over the ranks, with their optimiser "
            "state (--expert-parallel-size)"
        )


def _replace_backend(settings: Any) -> None:
    if settings.ddp_backend in REPLACED:
        logger.info(
            f"ddp_backend: legacy_ddp in place of {settings.ddp_backend}, which waits for the gradient of every gate, and one "
            "that no token reached has none"
        )
        with open_dict(settings):
            settings.ddp_backend = "legacy_ddp"


def _open_group(settings: Any, launch: Launch, seconds: int) -> None:
    """The process group, with a time limit that fairseq does not know, and the group that fairseq makes of it."""
    device = None
    if settings.distributed_backend == "nccl":
        device = torch.device("cuda", settings.device_id)
        torch.cuda.set_device(device)
    group = open_process_group(settings.distributed_backend, launch, timedelta(seconds=seconds), device)
    rank_failure.start_heartbeat(os.environ, launch.rank, launch.size)
    distributed_utils.get_global_group._global_group = group
    warnings.filterwarnings("ignore", message="Distributed is already initialized")
    logger.info(f"{launch.size} ranks ({settings.distributed_backend}); a rank waits at most {seconds} s for another")
