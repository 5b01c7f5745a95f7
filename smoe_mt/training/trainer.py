"""fairseq's Trainer with a look at what a job starts from: its batch, its folder and disk, the checkpoint that it loads, the dense
model that its experts begin as.

It also keeps a run going or ends it well: updates that are not finite are left out, a scheduler's signal makes it save and
leave, and a run that is started again ends as if it had never been interrupted.

fairseq asks the task about a checkpoint (`load_state_dict`) when it translates, not when it resumes or fine-tunes: there a
checkpoint of another vocabulary would be a shape mismatch or, at equal sizes, silently garble every word. A Trainer cannot
be registered with fairseq: `fairseq_patches.trainer` swaps the name that fairseq-train builds it by.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq.utils import set_torch_seed
from omegaconf import open_dict
from torch import Tensor

from smoe_mt import preemption
from smoe_mt.checkpoints.names import LAST
from smoe_mt.checkpoints.reading import check_whole, open_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView
from smoe_mt.checkpoints.settings import is_own
from smoe_mt.checkpoints.upcycle import upcycle_from
from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.library_messages import WEIGHTS_DO_NOT_FIT
from smoe_mt.memory import keep_freed_memory
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.moe.routers import after_update, forget_passes
from smoe_mt.training.batch import spread_over_ranks
from smoe_mt.training.closing import closing
from smoe_mt.training.compiler import leave_out_compiler
from smoe_mt.training.console import ConsoleHandler
from smoe_mt.training.deferred_metrics import DeferredMetrics, log_update
from smoe_mt.training.disk import check_room
from smoe_mt.training.expert_parallel_trainer import ExpertParallelTrainer
from smoe_mt.training.finished import stop_if_finished
from smoe_mt.training.fit import differences, misfits, refusal, warning
from smoe_mt.training.full_precision import take_over_changes
from smoe_mt.training.fused_adam import mark_experts
from smoe_mt.training.jobs import claim_folder, early_stopping_state, forget_previous_job, restore_early_stopping
from smoe_mt.training.last_epoch import LastEpoch
from smoe_mt.training.nonfinite import LossScaleLowered, LossScaleTooLow, NonFiniteUpdate, NonFiniteUpdates
from smoe_mt.training.opening import opening
from smoe_mt.training.optimizer_state import check_optimizer_state
from smoe_mt.training.precision import prepare_precision
from smoe_mt.training.resuming import whole_checkpoint
from smoe_mt.training.step_graphs import step_graphs
from smoe_mt.training.trackers import open_runs
from smoe_mt.training.whole_files import remove_leftovers

logger = logging.getLogger(__name__)

# What fairseq and torch raise for an optimiser's state of another optimiser, of other parameters, or of no sense.
MISFITS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)
STATE_KEY = "smoe_mt"  # in a checkpoint's extra state
SEEDS_APART = 2**24  # more than there are updates, so that no rank draws what another one draws later
# Without its scope of metrics, which an exception would leave open: ours is around.
UPDATE = Trainer.train_step.__wrapped__


class SMoETrainer(ExpertParallelTrainer):
    """fairseq's Trainer that starts each job of a process afresh, spreads the batch over the ranks, says which checkpoints will
    be kept, lets the task check a checkpoint first, and on a CPU keeps the memory that a step frees.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        prepare_precision(cfg)
        dense = getattr(cfg.model, "init_experts_from", None)
        if dense:
            upcycle_from(dense, model, task.vocabulary, task.dictionary.symbols)
        mark_experts(model)
        super().__init__(cfg, task, model, *args, **kwargs)
        forget_previous_job()
        claim_folder(self.cfg.checkpoint.save_dir)
        spread_over_ranks(self.cfg)
        if self.is_data_parallel_master:
            clean_up(self.cfg.checkpoint.save_dir)
            check_room(self.cfg, self._model)
            open_runs(self.cfg)
        limit = getattr(self.cfg.task, "max_nonfinite_updates", 0)
        self._nonfinite = NonFiniteUpdates(limit, self.get_criterion(), self.data_parallel_rank)
        self._deferred = DeferredMetrics(self.get_criterion().reduce_metrics)
        self._can_wait = isinstance(self.get_criterion(), StratifiedRoutingCriterion)
        if self.device.type == "cpu":
            self._arrange_memory()
        self._routers_changed_at: int | None = None
        self._leaving = self._saved_to_leave = False
        self._epochs: Any = None
        self._counts_updates = False  # at a terminal, once it has begun
        self._last_epoch = LastEpoch(self.cfg)
        self._graphs = self.task.graphs = step_graphs(self, self._nonfinite.note)
        preemption.listen()

    def _arrange_memory(self) -> None:
        """On a CPU: what a step frees stays for the next one, and torch's compiler is not loaded."""
        keep_freed_memory()
        leave_out_compiler()
        if self._can_wait and isinstance(self._model, SMoETransformerModel):  # other criterions may keep logits
            self._model.reuse_memory_of_logits()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, of the newest whole checkpoint should checkpoint_last be damaged or missing.

        UserError where there is none, and for a file that is no whole checkpoint, or one of another model or vocabulary, or
        that some ranks do not see.
        """
        self._check_that_all_see(filename)
        if self._graphs is not None:
            self._graphs.forget()
        found: dict[str, tuple[str, str]] = {}
        if PathManager.isfile(filename) or self._is_last(filename):
            filename = self._whole(filename)
        if PathManager.isfile(filename):
            trains_ours = isinstance(self._model, SMoETransformerModel)
            there = open_checkpoint(filename, foreign=not trains_ours)
            self.task.load_state_dict(CheckpointView(there).task_state)
            found = self._differences(there)
            del there  # not twice in memory
        state = self._load(filename, *args, **kwargs)
        if state is not None and found and self.is_data_parallel_master:
            logger.warning(warning(filename, found))
        if state is not None and not kwargs.get("reset_meters"):
            ours = state.get(STATE_KEY, {})
            self._nonfinite.load_state_dict(ours.get("nonfinite", {}))
            restore_early_stopping(ours.get("early_stopping", {}))
        return state

    def _load(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            state = super().load_checkpoint(filename, *args, **kwargs)
            if state is not None:
                check_optimizer_state(self.optimizer.optimizer)
            return state
        except UserError:
            raise
        except MISFITS as error:
            raise UserError(
                f"{filename}: the state of its training cannot be taken up ({first_sentence(error)}); start anew from its "
                "weights with checkpoint.finetune_from_model, or set checkpoint.reset_optimizer"
            ) from error
        except Exception as error:
            if WEIGHTS_DO_NOT_FIT not in str(error):
                raise
            state = open_checkpoint(filename, foreign=True)
            raise UserError(
                refusal(filename, self._differences(state), misfits(state["model"], self._model.state_dict()))
            ) from error

    def _differences(self, checkpoint: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
        """Between the settings of its model and this one's; none where one of the two is not smoe_mt's."""
        own = is_own(checkpoint) and isinstance(self._model, SMoETransformerModel)
        return differences(checkpoint["cfg"]["model"], self.cfg.model) if own else {}

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> Any:
        """As fairseq's, with what else a run needs to go on exactly."""
        ours = {"nonfinite": self._nonfinite.state_dict(), "early_stopping": early_stopping_state()}
        with self._last_epoch.as_given():
            return super().save_checkpoint(filename, {**extra_state, STATE_KEY: ours})

    def begin_epoch(self, epoch: int) -> None:
        """As fairseq's."""
        super().begin_epoch(epoch)
        self._last_epoch.begin_epoch(epoch, self.get_lr())

    def get_train_iterator(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's. The first one of a job comes when all is known that its log opens with."""
        begins = self._epochs is None
        self._epochs = super().get_train_iterator(epoch, *args, **kwargs)
        if begins and self.is_data_parallel_master and isinstance(self._model, SMoETransformerModel):
            ConsoleHandler.last_update = self.cfg.optimization.max_update or None
            self._counts_updates = self.cfg.common.log_format in ("simple", "json")  # tqdm draws a line of its own
            ConsoleHandler.closing = partial(closing, self, begun_at=self.get_num_updates())
            logger.info(opening(self.cfg, self.task, self._model, self.get_num_updates()))
        if begins:
            hours, validations = self._previous_training_time / 3600, early_stopping_state().get("num_runs", 0)
            stop_if_finished(self.cfg, self.get_num_updates(), epoch, hours, int(validations))
        return self._epochs

    @metrics.aggregate("train")
    def train_step(self, samples: Any, raise_oom: bool = False) -> Any:
        """As fairseq's; None for an update that was left out because its loss or gradient is not finite.

        Raises:
            UserError: too many of them in a row.
            SystemExit: a scheduler has asked for it; the update before is saved.
        """
        if self._saved_to_leave:
            self._wait_for_the_others()  # or whoever sees one leave may end the first, which may be writing still
            raise SystemExit(preemption.EXIT_PREEMPTED)
        self._nonfinite.begin()
        forget_passes(self._model)
        output = None
        try:
            output = UPDATE(self, dummy_batches_first(samples), raise_oom)
            if output is not None:
                self._after_update()
                self._nonfinite.good()
                if self._counts_updates and ConsoleHandler.line is not None:
                    ConsoleHandler.line.count(self.get_num_updates(), ConsoleHandler.last_update)
        except NonFiniteUpdate as reason:
            self.zero_grad()
            self._nonfinite.left_out(reason, self.get_num_updates(), samples, self.cfg.checkpoint.save_dir)
        self._last_epoch.look(self.get_lr())
        if self._leaving and not self._saved_to_leave:
            self._save_to_leave()
        return output

    def _set_seed(self) -> None:
        """Of the update, as fairseq's, and of the rank: else all of them would drop the same units."""
        set_torch_seed(self.cfg.common.seed + self.get_num_updates() + SEEDS_APART * self.data_parallel_rank)

    def clip_grad_norm(self, clip_norm: float) -> Any:
        """As fairseq's, once per update when the ranks have their gradients: what they have to agree on is decided here.

        The norm is on the CPU. It and what the ranks tell each other are the only values of an update that the host waits for.
        """
        status = self._status()
        try:
            norm = torch.as_tensor(super().clip_grad_norm(clip_norm))
        except (OverflowError, FloatingPointError) as error:  # of scaled gradients; what fairseq does of it needs a GPU
            self._agree(status.tolist())
            reason = LossScaleLowered if isinstance(error, OverflowError) else LossScaleTooLow
            raise reason(str(error)) from error
        *agreed, on_host = torch.cat([status, norm.to(status).reshape(1)]).tolist()
        self._agree(agreed)
        scales_loss = self.cfg.common.fp16 or self.cfg.common.amp  # then it is the scale that is too high, as a rule
        if not scales_loss and (self._nonfinite.bad_ranks or not math.isfinite(on_host)):
            raise NonFiniteUpdate
        return torch.tensor(on_host)

    def _status(self) -> Tensor:
        """Which ranks have a bad loss, and whether any was asked to leave: float32 [ranks + 1], on the device."""
        ranks, rank = self.data_parallel_world_size, self.data_parallel_rank
        flags = torch.zeros(ranks + 1, device=self.device)
        flags[rank], flags[ranks] = self._nonfinite.bad_loss(), preemption.asked_to_leave() is not None
        if ranks > 1:
            distributed_utils.all_reduce(flags, group=self.data_parallel_process_group)
        return flags

    def _agree(self, status: Sequence[float]) -> None:
        *bad, leaving = status
        self._nonfinite.bad_ranks = [number for number, flag in enumerate(bad) if flag]
        self._leaving = bool(leaving)

    def _reduce_and_log_stats(self, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        """As fairseq's. Of our criterion in training, the metrics wait until they are read (``DeferredMetrics``)."""
        if grad_norm is None or not self._can_wait or not logging_outputs:
            return super()._reduce_and_log_stats(logging_outputs, sample_size, grad_norm)
        log_update(logging_outputs, float(grad_norm), self.cfg.optimization.clip_norm)
        self._deferred.add(logging_outputs)
        return {"sample_size": sample_size}

    def begin_valid_epoch(self, epoch: int) -> None:
        """As fairseq's; what comes next is logged elsewhere."""
        self._deferred.flush()
        super().begin_valid_epoch(epoch)

    def _after_update(self) -> None:
        """Let routers change that balance themselves, once: with amp, fairseq makes an update anew within itself."""
        if self._routers_changed_at != self.get_num_updates():
            self._routers_changed_at = self.get_num_updates()
            group = self.data_parallel_process_group if self.data_parallel_world_size > 1 else None
            if after_update(self._model, group):
                take_over_changes(self.optimizer)

    def _wait_for_the_others(self) -> None:
        if self.data_parallel_world_size > 1:
            distributed_utils.all_reduce(torch.zeros(1, device=self.device), group=self.data_parallel_process_group)

    def _save_to_leave(self) -> None:
        """Save now, for a scheduler may not wait for long; leave before the next update.

        In between fairseq validates and saves, if it is time for that: a run without an interruption would have done so.
        """
        asked = preemption.asked_to_leave()
        if asked or self.is_data_parallel_master:
            who = asked.name if asked else "another rank"
            logger.warning(f"{who} asks to leave: saving after {self.get_num_updates():,} updates")
        checkpoint_utils.save_checkpoint(self.cfg.checkpoint, self, self._epochs, None)
        self._saved_to_leave = True

    def _check_that_all_see(self, filename: str) -> None:
        """Each rank reads the checkpoint itself: fairseq's broadcast of it is refused by torch's safe loading."""
        ranks = self.data_parallel_world_size
        if ranks == 1:
            return
        with open_dict(self.cfg):
            self.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        seen = torch.tensor([float(PathManager.isfile(filename))], device=self.device)
        distributed_utils.all_reduce(seen, group=self.data_parallel_process_group)
        if 0 < int(seen) < ranks:
            raise UserError(
                f"{filename}: {int(seen)} of {ranks} ranks see it; checkpoint.save_dir must be a folder that all machines share"
            )

    def _is_last(self, filename: str) -> bool:
        return Path(filename) == Path(self.cfg.checkpoint.save_dir) / LAST

    def _whole(self, filename: str) -> str:
        """`filename`, or what all ranks go on from in its place, as the first rank found it."""
        found, wrong = filename, ""
        if self.data_parallel_rank == 0:
            try:
                if self._is_last(filename):
                    found = str(whole_checkpoint(filename))
                else:
                    check_whole(filename)
            except UserError as error:
                wrong = str(error)
        if self.data_parallel_world_size > 1:
            group = self.data_parallel_process_group
            found, wrong = distributed_utils.broadcast_object(
                (found, wrong), src_rank=0, group=group, dist_device=self.device
            )
        if wrong:
            raise UserError(wrong)
        return found


def dummy_batches_first(samples: Sequence[Any]) -> list[Any]:
    """The samples of an update, those in front that the rank only takes part in because others have a batch.

    fairseq looks at the last one alone, and would then count none of the others.
    """
    return sorted(samples, key=bool)


def clean_up(folder: str) -> None:
    """Remove what a killed run left half-written, and say so."""
    for path in remove_leftovers(folder):
        logger.warning(f"removed {path}, which an interrupted run left half-written")
