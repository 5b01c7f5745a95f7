"""Forward and backward of a training's batches as graphs, one for each shape of batches (`task.cuda_graphs`).

The first batch of a shape is computed as ever, and it is noted what the host waits for. The second one is captured; it and all
later ones are replays. A replay copies the batch to where the captured one lay, and adds to gradients that stay where they are.
All that changes from batch to batch is in tensors: counts of tokens and sentences, the scale of the loss, the state of the
generator. What is captured computes nothing by itself, so losses and gradients are those of a training without graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.cuda_recorder import CudaRecorder, Recorder
from smoe_mt.errors import UserError, first_sentence
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.read_backs import ReadBacks
from smoe_mt.tasks.shapes import BatchShape
from smoe_mt.training.packed import Packing

logger = logging.getLogger(__name__)

Step = tuple[Any, Any, dict[str, Any]]  # loss, sample size, what is logged

COUNTS = ("ntokens", "nsentences")
LOSS = "the loss"  # beside the names of what is logged


class StepGraphs:
    """Computes micro-batches, as graphs where that can be done.

    recorder   what captures
    note_loss  is told the loss of each replay, whose forward pass calls no hooks
    """

    def __init__(self, recorder: Recorder, note_loss: Callable[[Tensor], None]) -> None:
        self._recorder = recorder
        self._note_loss = note_loss
        self._gradients = StaticGradients()
        self._graphs: dict[BatchShape, StepGraph] = {}
        self._seen: set[BatchShape] = set()
        self._too_large: set[BatchShape] = set()
        self._off = False

    def __call__(
        self,
        eager: Callable[[], Step],
        sample: Mapping[str, Any],
        model: Any,
        criterion: nn.Module,
        optimizer: Any,
        update_num: int,
    ) -> Step:
        """What `eager` returns, with the gradients of its backward pass added to those of the model."""
        shape = shape_of(sample)
        if self._off or shape in self._too_large:
            return self._eagerly(eager)
        if shape not in self._seen:
            return self._watched(eager, shape, model)
        if shape not in self._graphs and not self._capture(shape, sample, model, criterion, optimizer):
            return self._eagerly(eager)
        model.set_num_updates(update_num)
        self._gradients.attach()
        loss, size, log = self._graphs[shape](sample, optimizer)
        self._note_loss(loss)
        return loss, size, log

    def forget(self) -> None:
        """Free all graphs; they are captured anew when their shapes come again."""
        self._graphs.clear()
        self._seen.clear()
        self._recorder.forget()

    def _watched(self, eager: Callable[[], Step], shape: BatchShape, model: nn.Module) -> Step:
        """A shape's first batch: its gradients are those that a graph will add to."""
        with ReadBacks(self._recorder.device) as read:
            step = self._eagerly(eager)
        self._seen.add(shape)
        self._gradients.learn(model)
        if read.found:
            self._give_up(f"a step reads back from the device ({read.found[0]})")
        return step

    def _eagerly(self, eager: Callable[[], Step]) -> Step:
        try:
            return eager()
        except torch.cuda.OutOfMemoryError:
            if self._graphs:
                self._give_up("the memory ran out beside them")
            raise

    def _capture(
        self, shape: BatchShape, sample: Mapping[str, Any], model: nn.Module, criterion: nn.Module, optimizer: Any
    ) -> bool:
        """Whether there is a graph for the shape of this sample now; nothing has been computed."""
        self._gradients.attach()
        try:
            graph = StepGraph(self._recorder, sample, model, criterion, optimizer)
            self._gradients.check(model)
        except torch.cuda.OutOfMemoryError:
            if not self._too_large:
                logger.warning(f"task.cuda_graphs: no memory for the shape {shape}; it is computed without a graph")
            self._too_large.add(shape)
            return False
        except RuntimeError as error:
            self._give_up(f"a step cannot be captured ({first_sentence(error)})")
            return False
        self._graphs[shape] = graph
        return True

    def _give_up(self, why: str) -> None:
        logger.warning(f"task.cuda_graphs: {why}; training goes on without graphs")
        self._off = True
        self._gradients = StaticGradients()
        self.forget()


class StepGraph:
    """One shape's forward and backward pass, captured.

    Raises:
        RuntimeError: a pass that cannot be captured.
    """

    def __init__(
        self,
        recorder: Recorder,
        sample: Mapping[str, Any],
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
    ) -> None:
        device = sample["target"].device
        self._inputs = [tensor.clone() for tensor in tensors_of(sample)]
        self._counts = {name: torch.zeros((), dtype=torch.float64, device=device) for name in COUNTS}
        self._scale = torch.ones((), device=device) if _scaler(optimizer) is not None else None
        self._keys: list[str] = []
        self._of_count: dict[str, str] = {}
        self._size = ""
        self._packing: Packing | None = None
        batch = batch_of(self._inputs) | self._counts

        def run() -> Sequence[Tensor]:
            return self._run(batch, model, criterion)

        self._outputs, self._replay = recorder.capture(run)

    def _run(self, batch: Mapping[str, Any], model: nn.Module, criterion: nn.Module) -> list[Tensor]:
        # Not by a call: hooks would see a loss that is not computed yet.
        loss, size, log = criterion.forward(model, batch)
        (loss if self._scale is None else loss * self._scale.to(loss.dtype)).backward()
        names = {id(count): name for name, count in self._counts.items()}
        self._keys, self._size = list(log), names.get(id(size), "")
        self._of_count = {key: names[id(value)] for key, value in log.items() if id(value) in names}
        named = {LOSS: loss, **{key: value for key, value in log.items() if key not in self._of_count}}
        strange = [key for key, value in named.items() if not torch.is_tensor(value) or value.dim() > 1]
        if strange or not self._size:
            raise RuntimeError(f"the criterion returns numbers of the host ({(strange or ['the sample size'])[0]})")
        self._packing = Packing(named)
        return self._packing.pack(named)

    def _fill(self, sample: Mapping[str, Any], optimizer: Any) -> None:
        torch._foreach_copy_(self._inputs, tensors_of(sample))
        for name, count in self._counts.items():
            count.fill_(sample[name])
        if self._scale is not None:
            self._scale.fill_(_scaler(optimizer).loss_scale)

    def __call__(self, sample: Mapping[str, Any], optimizer: Any) -> Step:
        """Of a batch of the same shape."""
        self._fill(sample, optimizer)
        self._replay()
        if hasattr(optimizer, "_needs_sync"):  # fairseq's, of half precision: there are new gradients to convert
            optimizer._needs_sync = True
        assert self._packing is not None
        found = self._packing.unpack(self._outputs)
        log = {key: sample[self._of_count[key]] if key in self._of_count else found[key] for key in self._keys}
        return found[LOSS], sample[self._size], log


class StaticGradients:
    """Gradients that stay where they are, of the parameters that get any."""

    def __init__(self) -> None:
        self._of: dict[nn.Parameter, Tensor] = {}

    def learn(self, model: nn.Module) -> None:
        """After a pass: these parameters get gradients."""
        for parameter in _with_gradients(model):
            if parameter not in self._of:
                self._of[parameter] = torch.zeros_like(parameter)

    def attach(self) -> None:
        """Let all of them hold what their parameters' gradients are, and be those; 0 where there is none yet."""
        apart = [(parameter, own) for parameter, own in self._of.items() if parameter.grad is not own]
        empty = [own for parameter, own in apart if parameter.grad is None]
        given = [(own, parameter.grad) for parameter, own in apart if parameter.grad is not None]
        if empty:
            torch._foreach_zero_(empty)
        if given:
            torch._foreach_copy_([own for own, _ in given], [gradient for _, gradient in given])
        for parameter, own in apart:
            parameter.grad = own

    def check(self, model: nn.Module) -> None:
        """RuntimeError where a parameter has got a gradient that is none of these; it loses that."""
        strange = [parameter for parameter in _with_gradients(model) if parameter not in self._of]
        for parameter in strange:
            parameter.grad = None
        if strange:
            raise RuntimeError("which weights get gradients differs from batch to batch")


def _with_gradients(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.grad is not None)


def tensors_of(sample: Mapping[str, Any]) -> list[Tensor]:
    """What a step computes with; int64."""
    inputs = sample["net_input"]
    names = ("src_tokens", "src_lengths", "prev_output_tokens")
    return [*(inputs[name] for name in names), sample["target"], sample["direction"]]


def batch_of(tensors: Sequence[Tensor]) -> dict[str, Any]:
    """The sample of such tensors, without its counts."""
    source, lengths, previous, target, direction = tensors
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous}
    return {"net_input": net_input, "target": target, "direction": direction}


def shape_of(sample: Mapping[str, Any]) -> BatchShape:
    """What the batch was padded to."""
    rows, source = sample["net_input"]["src_tokens"].shape
    return BatchShape(rows, source, sample["target"].size(1))


def _scaler(optimizer: Any) -> Any:
    """What scales the loss, of fairseq's optimisers for float16; None of others."""
    return getattr(optimizer, "scaler", None)


# --- whether to capture at all ---


def step_graphs(trainer: Any, note_loss: Callable[[Tensor], None]) -> StepGraphs | None:
    """What a trainer computes its batches with, as `task.cuda_graphs` says; None: without graphs.

    Raises:
        UserError: graphs were asked for, and they cannot be.
    """
    wanted = str(getattr(trainer.cfg.task, "cuda_graphs", "off"))
    if wanted == "off":
        return None
    recorder = recorder_for(trainer)
    why = "trainings on a CPU have none" if recorder is None else _obstacle(trainer)
    if why is None and recorder is not None:
        return StepGraphs(recorder, note_loss)
    if wanted == "on":
        raise UserError(
            f"task.cuda_graphs=on: {why}; set it to off, or to auto, which uses graphs where that can be done"
        )
    if recorder is not None and trainer.is_data_parallel_master:
        logger.info(f"task.cuda_graphs=auto: no graphs, {why}")
    return None


def recorder_for(trainer: Any) -> Recorder | None:
    """What captures on the trainer's device."""
    return CudaRecorder() if trainer.device.type == "cuda" else None


def _obstacle(trainer: Any) -> str | None:
    """What rules graphs out before the training; None for nothing."""
    cfg = trainer.cfg
    if not cfg.task.batch_shapes:
        return "batches have any number of shapes (task.batch_shapes=0)"
    if not isinstance(trainer.get_criterion(), StratifiedRoutingCriterion):
        return "the criterion is not stratified_routing"
    if not isinstance(trainer.get_model(), SMoETransformerModel):
        return "the model is not smoe_transformer"
    if cfg.common.amp:
        return "common.amp does not go with them"
    if getattr(trainer, "_expert_ranks", None) is not None:
        return "experts are spread over ranks, which exchange tokens in every block"
    backend = cfg.distributed_training.ddp_backend
    if trainer.data_parallel_world_size > 1 and backend not in ("legacy_ddp", "no_c10d"):
        return f"distributed_training.ddp_backend={backend} reduces gradients during the backward pass"
    return None
