"""fairseq's trainings join the ranks that torchrun started (`training.launch_ranks`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from fairseq.distributed import utils as distributed_utils
from torch import distributed

from smoe_mt.allowed.config import check_config
from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.fairseq_patches.trainer import TRAIN
from smoe_mt.training import start
from smoe_mt.training.given_paths import make_absolute
from smoe_mt.training.launch_ranks import join_ranks
from smoe_mt.training.own_settings import OWN_SETTINGS


def call_main(original: Any) -> Any:
    """Checks the settings, makes paths absolute and joins the ranks before a training's main function."""

    @wraps(original)
    def joined(cfg: Any, main: Callable[..., Any], **kwargs: Any) -> Any:
        if is_training(main):
            _check(cfg)
            join_ranks(cfg)
        try:
            return original(cfg, main, **kwargs)
        finally:
            start.end()

    return joined


def _check(cfg: Any) -> None:
    check_config(cfg, OWN_SETTINGS)
    make_absolute(cfg)


def is_training(main: Callable[..., Any]) -> bool:
    """Whether it is fairseq-train's main function: of the command lines that come here, training alone has a Trainer."""
    return "Trainer" in getattr(main, "__globals__", {})


def add_defaults(original: Any) -> Any:
    """Checks the settings, makes paths absolute, joins the ranks where that is still to be done, and looks at what the training
    starts from: at the first step of its main function, which imports the plugin."""

    @wraps(original)
    def joined(cfg: Any) -> None:
        _check(cfg)
        if not distributed.is_initialized():
            join_ranks(cfg)
            if distributed.is_initialized():
                distributed_utils.distributed_init(cfg)
        original(cfg)
        start.begin(cfg)  # with the defaults of our task

    return joined


PATCHES = (
    Patch(
        "fairseq.distributed.utils.call_main",
        call_main,
        "the number of ranks is torchrun's, not that of the GPUs that one process sees",
        ("cfg", "main", "kwargs"),
    ),
    Patch(
        "fairseq.dataclass.initialize.add_defaults",
        add_defaults,
        "the same where call_main has been called already",
        ("cfg",),
        copies=TRAIN,
        target_too=False,
    ),
)
