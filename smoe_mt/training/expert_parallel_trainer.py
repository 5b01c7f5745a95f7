"""fairseq's Trainer for ranks that differ: each holds some of the experts, or writes a part of the checkpoint."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from fairseq import checkpoint_utils, utils
from fairseq.trainer import Trainer
from omegaconf import open_dict

from smoe_mt.checkpoints.sharded import MODEL, OPTIMISER, PARTS, SHARDS, fill
from smoe_mt.errors import UserError
from smoe_mt.moe.distributed.expert_parallel import ranks_of
from smoe_mt.moe.distributed.placement import ExpertRanks
from smoe_mt.training.expert_parallel import (
    add_expert_norm,
    experts_to_load,
    put_whole_experts,
    stack_members,
    whole_experts,
    wrapped,
)
from smoe_mt.training.safe_loading import filled_by
from smoe_mt.training.sharded_saving import ShardedSaving, check_sharded

logger = logging.getLogger(__name__)


class ExpertParallelTrainer(Trainer):
    """fairseq's Trainer. Where experts are spread over ranks, it reduces, clips, saves and loads each rank's own; with
    `task.sharded_checkpoints` all ranks write.
    """

    def __init__(self, cfg: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(cfg, *args, **kwargs)
        self._expert_ranks = ranks_of(self._model)
        self._whole_experts: dict[str, Any] | None = None
        if self._expert_ranks is not None:
            check_expert_parallel(self.cfg)
        self._shards = self._sharded_saving() if getattr(self.cfg.task, "sharded_checkpoints", False) else None

    @property
    def model(self) -> Any:
        """As fairseq's; where experts are spread over ranks, with their own reduction of gradients."""
        if self._expert_ranks is not None and self._wrapped_model is None:
            module = self._model.to(self.device)
            self._wrapped_model: Any = wrapped(module, self._expert_ranks, self.data_parallel_process_group)
        return super().model

    def _build_optimizer(self) -> None:
        super()._build_optimizer()
        ranks = self._expert_ranks
        if ranks is not None:
            self.optimizer.optimizer.register_load_state_dict_pre_hook(
                lambda optimizer, state: experts_to_load(state, self._model, optimizer, ranks)
            )

    def consolidate_optimizer(self) -> None:
        """As fairseq's, which calls it on all ranks before it saves: experts that are spread over them come together."""
        super().consolidate_optimizer()
        apart = self._expert_ranks is not None and self._shards is None
        if apart and sys.exc_info()[0] is None:  # not where this rank alone saves a crash
            ranks = cast(ExpertRanks, self._expert_ranks)
            self._whole_experts = whole_experts(self._model, self.optimizer.optimizer, ranks)

    def state_dict(self) -> dict[str, Any]:
        """As fairseq's, with all experts."""
        state: dict[str, Any] = super().state_dict()
        if self._expert_ranks is not None:
            state["cfg"]["task"]["expert_parallel_size"] = 1  # nothing in a checkpoint depends on it
        if self._whole_experts is not None:
            put_whole_experts(state, self._whole_experts)
            self._whole_experts = None
        return state

    def clip_grad_norm(self, clip_norm: float) -> Any:
        """As fairseq's, of the gradients of all experts."""
        ranks, optimizer = self._expert_ranks, self.optimizer
        if ranks is None:
            return super().clip_grad_norm(clip_norm)
        parameters = getattr(optimizer, "fp32_params", None) or list(optimizer.params)
        return optimizer.clip_grad_norm(
            clip_norm, aggregate_norm_fn=lambda norm: add_expert_norm(norm, iter(parameters), ranks)
        )

    # --- checkpoints ---

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's; of tensors in other files a rank reads what it needs."""
        without_optimiser = bool(args[0] if args else kwargs.get("reset_optimizer"))

        def fill_own(state: dict[str, Any], path: Path) -> None:
            if state.get(SHARDS):
                fill(state, path, (MODEL,) if without_optimiser else PARTS, self._own_experts)
            if without_optimiser:
                state[OPTIMISER] = None

        with filled_by(fill_own):
            return super().load_checkpoint(filename, *args, **kwargs)

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> Any:
        """As fairseq's, in the form that was asked for."""
        apart = self._expert_ranks is not None or (self._shards is not None and self._shards.ranks > 1)
        if apart and sys.exc_info()[0] is not None:
            logger.error("no checkpoint of the crash: the other ranks' parts of it can no longer be collected")
            return None
        if self._shards is None:
            return super().save_checkpoint(filename, extra_state)
        return self._save_sharded(filename, extra_state)

    def _save_sharded(self, filename: str, extra_state: dict[str, Any]) -> str:
        state = self.state_dict()
        state["extra_state"].update(extra_state)
        rest = utils.move_to_cpu({key: value for key, value in state.items() if key not in PARTS})
        whole = {**rest, **{part: state[part] for part in PARTS if part in state}}
        assert self._shards is not None
        logger.info(f"Saving checkpoint to {filename}, its tensors to a folder next to it")
        written = self._shards.write(whole, Path(filename).parent, self.get_num_updates())
        checkpoint_utils.torch_persistent_save(written, filename)
        return str(Path(filename).absolute())

    def _sharded_saving(self) -> ShardedSaving:
        check_sharded(self.cfg)
        named = [*self._model.named_parameters(), *self._criterion.named_parameters()]
        return ShardedSaving(
            rank=self.data_parallel_rank,
            ranks=self.data_parallel_world_size,
            parameters=[name for name, parameter in named if parameter.requires_grad],
            mine=self._own_experts,
            counts={name: len(members) for name, members in self._members.items()},
        )

    @cached_property
    def _members(self) -> dict[str, Sequence[int]]:
        """Numbers of the experts that a stack has entries of, by the parameter's name."""
        found = stack_members(self._model)
        return {name: found[id(each)] for name, each in self._model.named_parameters() if id(each) in found}

    def _own_experts(self, name: str, entries: int) -> Sequence[int]:
        """Of the entries of a stack those that are here, as ``checkpoints.sharded`` asks."""
        if self._expert_ranks is None:
            return range(entries)
        return self._expert_ranks.places(self._members.get(name, range(entries)))

    def saving_together(self) -> AbstractContextManager[None]:
        """Around fairseq's saving of a checkpoint, on all ranks."""
        if self._shards is None:
            return nullcontext()
        return self._shards.together(Path(self.cfg.checkpoint.save_dir), self.state_dict)


def check_expert_parallel(cfg: Any) -> None:
    """Refuse what does not go with experts that are spread over ranks, by a UserError; let fp16 keep parameters apart."""
    if cfg.ema.store_ema:
        raise UserError("task.expert_parallel_size and ema.store_ema do not go together: leave one of them out")
    with open_dict(cfg):
        cfg.common.fp16_no_flatten_grads = True  # one flat vector could not tell experts from what all ranks have
