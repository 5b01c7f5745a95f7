"""Half precision: what fairseq supports on GPUs only is refused on a CPU, or made to work there."""

from __future__ import annotations

import logging
from typing import Any

import torch
from omegaconf import open_dict

from smoe_mt.errors import UserError

logger = logging.getLogger(__name__)


def prepare_precision(cfg: Any) -> None:
    """Let `common.fp16` work on a CPU. UserError for what does not: `common.bf16` and `common.amp`."""
    common = cfg.common
    if torch.cuda.is_available() and not common.cpu:
        return
    for name, what in (("bf16", "asks for a TPU"), ("amp", "would compute in float32")):
        if getattr(common, name):
            raise UserError(
                f"common.{name} is for GPUs, and on a CPU it {what}: model.cpu_bf16=on computes in bfloat16 there (auto: "
                "where the processor is faster so)"
            )
    if common.fp16 and not (common.memory_efficient_fp16 or common.fp16_no_flatten_grads):
        logger.info("common.fp16_no_flatten_grads is set to true: fairseq flattens gradients on GPUs only")
        with open_dict(cfg):
            common.fp16_no_flatten_grads = True
