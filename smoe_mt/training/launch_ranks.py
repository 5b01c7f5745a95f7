"""The ranks of one training: as torchrun starts them, found in the environment, joined and checked, with no further flags.

fairseq takes the number of ranks from the GPUs that it sees. On CPUs, or with one GPU on each of several machines, it would
train as many times as torchrun starts it, each process for itself and all into one folder.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import open_dict
from torch import distributed

from smoe_mt.checkpoints.reading import first_sentence
from smoe_mt.errors import UserError
from smoe_mt.training import rank_failure

logger = logging.getLogger(__name__)

# The others wait while the first rank reads or writes a checkpoint, and for the slowest to start or to translate.
PATIENCE = 1800  # seconds
REPLACED = ("pytorch_ddp", "c10d")  # the first is fairseq's default
KEPT = ("legacy_ddp", "no_c10d")
TRAINERS = ("fairseq_cli.train", "__main__")  # the latter for python -m fairseq_cli.train


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `size`, and number `local_rank` of its machine."""

    rank: int
    size: int
    local_rank: int


def launch_in(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun says there; None without WORLD_SIZE. UserError where it says only a part of it."""
    if "WORLD_SIZE" not in environment:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        if environment["WORLD_SIZE"] == "1":
            return None
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    rank = int(environment["RANK"])
    return Launch(rank, int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank)))


def put_in_place() -> None:
    """Let fairseq's trainings join the ranks. Doing it again changes nothing."""
    _join_before_main()
    _join_in_main()


def _join_before_main() -> None:
    original = distributed_utils.call_main
    if getattr(original, "joins_ranks", False):
        return

    @wraps(original)
    def call_main(cfg: Any, main: Callable[..., Any], **kwargs: Any) -> Any:
        # Of fairseq's command lines that come here, training alone has one.
        if "Trainer" in getattr(main, "__globals__", {}):
            join_ranks(cfg)
        return original(cfg, main, **kwargs)

    call_main.joins_ranks = True  # type: ignore[attr-defined]
    distributed_utils.call_main = call_main


def _join_in_main() -> None:
    """fairseq-hydra-train imports the plugin in the midst of its main function, which calls this next."""
    for module in (sys.modules.get(name) for name in TRAINERS):
        original = getattr(module, "add_defaults", None)
        if original is None or not hasattr(module, "Trainer") or getattr(original, "joins_ranks", False):
            continue

        def add_defaults(cfg: Any, original: Callable[[Any], None] = original) -> None:
            if not distributed.is_initialized():
                join_ranks(cfg)
                if distributed.is_initialized():
                    distributed_utils.distributed_init(cfg)
            original(cfg)

        add_defaults.joins_ranks = True  # type: ignore[attr-defined]
        module.add_defaults = add_defaults  # type: ignore[union-attr]


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
    limit = timedelta(seconds=seconds)
    # torchrun keeps its store when it starts ranks again, and in it the addresses of those that have gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, rank, size = next(distributed.rendezvous("env://", launch.rank, launch.size, timeout=limit))
        store = distributed.PrefixStore(f"smoe_mt/attempt/{attempt}", store)
        distributed.init_process_group(
            settings.distributed_backend, store=store, rank=rank, world_size=size, timeout=limit
        )
        group = distributed.new_group(timeout=limit)
        present = torch.ones((), device=device)
        distributed.all_reduce(present, group=group)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"rank {launch.rank} of {launch.size} does not find the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({first_sentence(error)}); start them with torchrun"
        ) from error
    if int(present) != launch.size:
        raise UserError(f"{int(present)} of {launch.size} ranks have found each other: start them with torchrun")
    rank_failure.listen(os.environ, launch.rank, launch.size)
    distributed_utils.get_global_group._global_group = group
    warnings.filterwarnings("ignore", message="Distributed is already initialized")
    logger.info(f"{launch.size} ranks ({settings.distributed_backend}); none waits for another longer than {seconds} s")
