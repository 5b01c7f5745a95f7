"""From a path to a model that is ready to use: loads the checkpoint safely, attaches its data folder.

Loading goes through fairseq, with torch's ``weights_only`` safety on, or through safetensors: a checkpoint never runs code.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from smoe_mt.checkpoints.for_fairseq import in_fairseqs_form
from smoe_mt.checkpoints.locate import data_folder_of, find_checkpoint
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView, updates_of
from smoe_mt.devices import INT8, pick_device, pick_dtype
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.moe.int8 import check_int8
from smoe_mt.paths import expanded
from smoe_mt.registration import register
from smoe_mt.search.decoder.prepared import compute_in_int8, computes_in_int8

Precision = torch.dtype | str  # of weights, or INT8


class SearchLock:
    """One search at a time with a model, in each process: a forked one does not inherit a search of its parent's threads."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._renew()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its task and the configuration it was trained with; `lock`: of whoever searches with it.

    Pickled with its weights; the data folder is opened again where it is unpickled.
    """

    model: Any
    task: Any
    config: DictConfig
    checkpoint: Path
    updates: int
    #: The epoch that its training was in; None where it does not say. And the data folder that the checkpoint remembers.
    epoch: int | None = None
    trained_on: str | None = None
    lock: Any = field(default_factory=SearchLock, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """fairseq's tasks cannot be pickled. UserError for a model whose experts are spread over ranks."""
        if self.task.expert_ranks is not None:
            raise UserError(
                "experts are spread over ranks: such a model cannot be handed to another process; load it there"
            )
        weights = BytesIO()
        torch.save(self.model.state_dict(), weights)  # tied weights once
        first = next(self.model.parameters())
        plain = (self.config, self.checkpoint, self.updates, self.epoch, self.trained_on)
        precision = INT8 if computes_in_int8(self.model) else first.dtype
        return _unpickled, (weights.getvalue(), self.task.state_dict(), str(first.device), precision, *plain)


def _unpickled(
    weights: bytes, task_state: dict[str, Any], device: str, precision: Precision, config: DictConfig, *plain: Any
) -> LoadedModel:
    from fairseq import tasks

    register()
    task = tasks.setup_task(config.task, from_checkpoint=True)
    task.load_state_dict(task_state)
    model = task.build_model(config.model, from_checkpoint=True)
    model.load_state_dict(torch.load(BytesIO(weights), map_location="cpu", weights_only=True), model_cfg=config.model)
    _make_ready(model, pick_device(device), precision)
    return LoadedModel(model, task, config, *plain)


def _make_ready(model: Any, device: torch.device, precision: Precision) -> None:
    """For translating, there and in this precision."""
    model.eval().to(device=device, dtype=torch.float32 if precision == INT8 else precision)
    if precision == INT8:
        compute_in_int8(model)


def load_model(
    path: str | Path,
    data: str | Path | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    expert_parallel_size: int = 1,
    verify: bool = False,
) -> LoadedModel:
    """Load the model of a checkpoint, a run folder or an exported folder; its weights become `dtype` (fp32, bf16, fp16);
    int8: they stay float32, and searches compute in 8-bit integers.

    `expert_parallel_size`: number of ranks that share its experts, whatever it was trained on. `verify`: read all of the data
    folder, even what was found sound before.

    `data` replaces the data folder that the checkpoint remembers (it may have been moved since). Raises UserError for a
    file that is no whole checkpoint of this plugin, a data folder that is gone, or one of another vocabulary.
    """
    from fairseq import checkpoint_utils

    register()
    checkpoint = find_checkpoint(path)
    target, precision = pick_device(device), INT8 if dtype == INT8 else pick_dtype(dtype)
    if precision == INT8:
        check_int8(target)
    state = read_for_fairseq(checkpoint)
    config: DictConfig = state["cfg"]
    trained_on = config.task.data
    _attach_data(config, data, checkpoint)
    with open_dict(config):
        config.task.expert_parallel_size = expert_parallel_size
        config.task.verify = verify
    try:
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], state=state)
    except (UserError, OSError):
        raise
    except Exception as error:  # settings that no model can have make fairseq raise nearly anything
        raise UserError(
            f"{checkpoint}: its weights do not fit the model that its configuration describes ({first_sentence(error)}); "
            "was it written by another version of smoe_mt?"
        ) from error
    model = models[0]
    _make_ready(model, target, precision)
    return LoadedModel(model, task, config, checkpoint, updates_of(state), CheckpointView(state).epoch, trained_on)


def read_for_fairseq(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint file holds, in fairseq's form: cfg, model, task_state, ... UserError for a damaged one."""
    from fairseq import checkpoint_utils

    if checkpoint.suffix == ".safetensors":
        return in_fairseqs_form(open_checkpoint(checkpoint), checkpoint)
    state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    return state


def _attach_data(config: DictConfig, data: str | Path | None, checkpoint: Path) -> None:
    """Put the data folder into the configuration, as an absolute path."""
    found = Path(expanded(str(data))) if data is not None else data_folder_of(config, checkpoint)
    if found is None or (data is None and not found.is_dir()):
        raise UserError(f"{checkpoint}: its data folder {found} is not there; say where it is now with --data")
    folder = str(found.absolute())
    if "${" in folder:
        raise UserError(f"{folder}: a path with ${{ in it cannot be used; rename that folder")
    with open_dict(config):
        config.task.data = folder
