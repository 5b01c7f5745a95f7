"""``smoe-mt checkpoint convert``: a checkpoint in another form.

- of smoe_mt, or an exported folder -> one file or sharded, with or without the optimiser's state, in another precision
- of fairseq's `transformer`, or of the paper's released code -> a model of smoe_mt, for a data folder of the same pieces
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from smoe_mt.checkpoints.fairseq_import import ForeignModel, fit_vocabulary, read_foreign
from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.released_files import PART
from smoe_mt.checkpoints.schema import TASK, is_weight, untrained_history
from smoe_mt.checkpoints.settings import is_own
from smoe_mt.checkpoints.sharded import OPTIMISER, PARTS, SHARDS
from smoe_mt.checkpoints.sizes import check_sizes
from smoe_mt.checkpoints.writing import check_is_another, check_output, write, write_sharded
from smoe_mt.devices import pick_dtype
from smoe_mt.errors import UserError, first_sentence


def run(args: argparse.Namespace) -> None:
    """Convert, and say what came out. Raises UserError for what cannot be read, converted or written."""
    out = Path(args.out)
    check_output(out, " (`smoe-mt export` writes a folder that translates anywhere)")
    path = find_checkpoint(args.model)
    check_is_another(out, path, "what is to be converted")
    state = converted(path, args.data, args.dictionary)
    if args.no_optimizer:
        state.pop(OPTIMISER, None)
    if args.dtype:
        state["model"] = in_dtype(state["model"], pick_dtype(args.dtype))
    size = (write_sharded(state, out) if args.sharded else write(state, out)) / 1e6
    print(
        f"{out}: {size:,.1f} MB, {len(state['model'])} weights, "
        + ("with" if state.get(OPTIMISER) else "without")
        + " optimiser state"
    )


def converted(path: Path, data: str | None, dictionary: str | None) -> dict[str, Any]:
    """The checkpoint as one of smoe_mt. UserError where it cannot be one."""
    if not PART.fullmatch(path.stem):
        state = read_checkpoint(path, PARTS, foreign=True)
        if is_own(state):
            return {key: value for key, value in state.items() if key != SHARDS}
    if not data:
        raise UserError(f"{path}: not a model of smoe_mt; say with --data which data folder it will be used with")
    return from_foreign(read_foreign(path, dictionary), data)


def in_dtype(weights: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The weights in `dtype`; tied ones stay tied."""
    done: dict[int, Any] = {}
    return {
        name: done.setdefault(tensor.data_ptr(), tensor.to(dtype)) if is_weight(name, tensor) else tensor
        for name, tensor in weights.items()
    }


def from_foreign(foreign: ForeignModel, data: str | Path) -> dict[str, Any]:
    """A checkpoint of smoe_mt with the weights of another model, to translate with or to fine-tune.

    Raises UserError for a data folder of other pieces, and for weights that are not those of the settings.
    """
    from fairseq import tasks
    from omegaconf import OmegaConf

    from smoe_mt.models import SMoETransformerConfig
    from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationConfig

    settings = asdict(SMoETransformerConfig()) | foreign.settings | {"_name": "smoe_transformer"}
    check_sizes(settings, foreign.weights, foreign.path)
    task_settings = asdict(ManyToManyTranslationConfig()) | {"_name": TASK, "data": str(Path(data).absolute())}
    task_settings |= {name: settings[name] for name in ("max_source_positions", "max_target_positions")}
    task_settings |= {"seed": 1, "train_subset": "train"}  # which fairseq takes from sections that are not here
    cfg = {"model": settings, "task": task_settings}
    task = tasks.setup_task(OmegaConf.create(task_settings))
    weights, tags = fit_vocabulary(foreign, task.dictionary.symbols)
    if tags:
        warnings.warn(
            f"{foreign.path}: its dictionary has no tokens for {', '.join(tags)}, which begin as the mean of all; train on "
            "(checkpoint.finetune_from_model) before they can mean something",
            stacklevel=2,
        )
    model = task.build_model(OmegaConf.create(settings), from_checkpoint=True)
    try:
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{foreign.path}: its weights are not those of its settings ({first_sentence(error)})"
        ) from error
    return {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "optimizer_history": untrained_history(foreign.updates),
        "task_state": task.state_dict(),
        "extra_state": {},
    }
