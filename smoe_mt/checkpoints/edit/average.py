"""``smoe-mt checkpoint average``: the mean of several checkpoints of a training, as one checkpoint.

One checkpoint at a time is mapped from the disk, sums are kept in float64: memory is two models in float32 and the largest
weight, whatever their number, and one more model for sharded checkpoints, which cannot be mapped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.checkpoints.reading import check_whole, open_checkpoint, tied_names
from smoe_mt.checkpoints.schema import AVERAGED, CheckpointView, updates_of
from smoe_mt.checkpoints.sharded import MODEL, OPTIMISER, SHARDS, fill
from smoe_mt.checkpoints.writing import write
from smoe_mt.errors import UserError
from smoe_mt.files import output_file
from smoe_mt.models.meaning import meaning


@dataclass(frozen=True)
class Summary:
    """What is asked of a checkpoint before anything is added up."""

    path: Path
    updates: int
    loss: float | None
    #: Whether a higher `loss` is better: the run chose its best checkpoint by another metric, such as BLEU.
    higher_is_better: bool
    #: Whether it was made of other checkpoints, and not by training.
    derived: bool
    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    vocabulary: str | None
    #: Settings in which models of equal shapes may still compute something else.
    meaning: dict[str, str]


def run(args: argparse.Namespace) -> None:
    """Average, and say what. Raises UserError for checkpoints that cannot be averaged."""
    out = Path(args.out)
    output_file(out)
    chosen = choose(args.models, args.last, args.best)
    if any(out.exists() and out.samefile(one.path) for one in chosen):
        raise UserError(f"--out {out}: it is one of the checkpoints to average; give another name")
    check_alike(chosen)
    for one in chosen:
        check_whole(one.path)
    write(average(chosen), out)
    for one in chosen:
        print(f"{one.path}: {one.updates:,} updates" + ("" if one.loss is None else f", validation {one.loss:.4g}"))
    print(f"{out}: the mean of these {len(chosen)}")


def choose(models: Sequence[str], last: int | None, best: int | None) -> list[Summary]:
    """The checkpoints that the arguments mean, those with the most updates last. UserError where there are too few."""
    wanted = last if last is not None else best
    if wanted is None:
        if len(models) == 1:
            raise UserError(f"{models[0]}: one model has no mean; add --last N or --best N to a run, or name several")
        return sorted((summarise(find_checkpoint(path)) for path in models), key=lambda one: one.updates)
    if len(models) > 1 or not Path(models[0]).is_dir():
        raise UserError("--last and --best choose from one run folder; without them, name the checkpoints")
    found = checkpoints_of(Path(models[0]))
    if best is not None:
        found = sorted((one for one in found if one.loss is not None), key=_badness, reverse=True)
    if len(found) < wanted:
        raise UserError(
            f"{models[0]} has {len(found)} checkpoint{'s' * (len(found) != 1)} of different updates"
            + (" with a validation loss" if best is not None else "")
            + f", and {wanted} are to be averaged; ask for fewer (in training, checkpoint.keep_interval_updates says how "
            "many are kept)"
        )
    return sorted(found[-wanted:], key=lambda one: one.updates)


def _badness(one: Summary) -> float:
    loss = one.loss or 0.0
    return -loss if one.higher_is_better else loss


def checkpoints_of(run_folder: Path) -> list[Summary]:
    """A checkpoint for each number of updates that the run has one of, by updates; what was made of others is no candidate."""
    found: dict[int, Summary] = {}
    for path in sorted(run_folder.glob("*.pt")):
        one = summarise(path)
        if not one.derived:
            found.setdefault(one.updates, one)
    return [found[updates] for updates in sorted(found)]


def summarise(path: Path) -> Summary:
    """Look at a checkpoint; its tensors stay on the disk. UserError for a damaged one."""
    state = _open(path)
    view, settings = CheckpointView(state), state["cfg"]
    weights: dict[str, Tensor] = state["model"]
    return Summary(
        path=path,
        updates=updates_of(state),
        loss=view.validation_loss,
        higher_is_better=bool((settings.get("checkpoint") or {}).get("maximize_best_checkpoint_metric")),
        derived=view.mean_of is not None or view.pruned_from is not None,
        shapes={name: tuple(tensor.shape) for name, tensor in weights.items()},
        tied=tied_names(state),
        vocabulary=(view.vocabulary or {}).get("sha256"),
        meaning=meaning(settings["model"]),
    )


def _open(path: Path) -> dict[str, Any]:
    state = open_checkpoint(path)
    if CheckpointView(state).updates is None:
        raise UserError(f"{path}: it does not say after how many updates it was written; give one that training wrote")
    return state


def check_alike(chosen: Sequence[Summary]) -> None:
    """UserError, naming the difference, unless all are models of one shape, vocabulary and kind."""
    one = chosen[0]
    for other in chosen[1:]:
        pair = f"{one.path} and {other.path} cannot be averaged"
        if one.vocabulary != other.vocabulary:
            raise UserError(f"{pair}: their vocabularies differ; take checkpoints of one training")
        if one.shapes != other.shapes:
            name = min(name for name in {*one.shapes, *other.shapes} if one.shapes.get(name) != other.shapes.get(name))
            found, wanted = (each.shapes.get(name, "missing") for each in (one, other))
            raise UserError(f"{pair}: {name} is {found} in the first and {wanted} in the second")
        for key in {**one.meaning, **other.meaning}:
            mine, theirs = (each.meaning.get(key, "not set") for each in (one, other))
            if mine != theirs:
                raise UserError(f"{pair}: {key} is {mine} in the first and {theirs} in the second")
        if one.tied != other.tied:
            raise UserError(f"{pair}: one of them shares embeddings and the other does not")


def average(chosen: Sequence[Summary]) -> dict[str, Any]:
    """The mean of checkpoints that are alike, as a checkpoint without optimizer state, of the last one's updates.

    Weights keep the type and the ties of the last one; what is no floating-point number is taken from it.
    """
    tied = chosen[-1].tied
    sums: dict[str, Tensor] = {}
    for one in tqdm(chosen, desc="averaging", unit="model", disable=None):
        state = _open(one.path)
        fill(state, one.path, (MODEL,))
        for name, tensor in state["model"].items():
            if name in tied or not tensor.is_floating_point():
                continue
            if name in sums:
                sums[name] += tensor
            else:
                sums[name] = tensor.to(torch.float64, copy=True)
    mean: dict[str, Tensor] = {}
    for name, tensor in state["model"].items():
        if name in tied:
            mean[name] = mean[tied[name]]
        elif name in sums:
            mean[name] = sums.pop(name).div_(len(chosen)).to(tensor.dtype)
        else:
            mean[name] = tensor.clone()
    extra = {name: value for name, value in (state.get("extra_state") or {}).items() if name == "train_iterator"}
    return {
        **{key: value for key, value in state.items() if key not in (OPTIMISER, SHARDS)},
        "model": mean,
        "extra_state": {**extra, "val_loss": None, AVERAGED: [one.path.name for one in chosen]},
    }
