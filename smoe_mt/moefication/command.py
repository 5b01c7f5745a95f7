"""``smoe-mt checkpoint moefy``: a dense model -> the same model with its FFNs cut into experts, or how sparsely they fire."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smoe_mt.checkpoints.locate import find_checkpoint
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.writing import check_is_another, check_output, write
from smoe_mt.errors import UserError
from smoe_mt.evaluation.selection import choose_directions
from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.moe.names import Block
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.systems.moefied import SYSTEM, chosen_of
from smoe_mt.moefication import partition
from smoe_mt.moefication.activations import Recorded, dense_ffns, record
from smoe_mt.moefication.arguments import settle
from smoe_mt.moefication.selectors import Quality, Slices, Tokens, mlp_selector, quality, similarity_selector
from smoe_mt.moefication.weights import Cut, cut_state, merged_state
from smoe_mt.progress import progress_bar
from smoe_mt.text_table import aligned

FORMAT = 1
MOST_COLUMNS = 12  # directions that the table has a column for


@dataclass(frozen=True)
class Made:
    """How one FFN was cut, and how good the choice of its experts is; epochs of the mlp's training, if there was one."""

    cut: Cut
    chosen: int
    quality: Quality
    epochs: int | None


def run(args: argparse.Namespace) -> None:
    """Measure, and unless that is all, cut and write; or merge. Raises UserError for what cannot be cut, merged or written."""
    settle(args)
    if args.measure and args.out is not None:
        raise UserError(f"--measure writes nothing: leave {args.out} or --measure out")
    if not args.measure and args.out is None:
        or_measure = "" if args.merge else ", or say --measure, which writes nothing"
        raise UserError(f"name the checkpoint to write after {args.model}, such as OUT.pt{or_measure}")
    path = find_checkpoint(args.model)
    out = None if args.out is None else Path(args.out)
    if out is not None:
        check_output(out)
        check_is_another(out, path, "the model that is read")
    if args.merge:
        assert out is not None
        size = write(merged_state(read_checkpoint(path), path), out)
        print(f"{out}: the dense model that was cut, {size / 1e6:,.1f} MB")
        return
    loaded = load_model(path, args.data, args.device, verify=args.verify)
    check_relu(loaded)
    if out is not None:
        check_can_be_cut(loaded, args.units)
    directions = choose_directions(loaded.task, args.subset, args.directions)
    found = record(loaded, directions, args.subset, args.sentences, args.max_tokens, keep_inputs=out is not None)
    made = {} if out is None else cut_ffns(dense_ffns(loaded.model), found, args)
    if out is not None:
        state = cut_state(
            read_checkpoint(path), {name: one.cut for name, one in made.items()}, args.choose, args.select
        )
        write(state, out)
    print(json.dumps(as_json(found, made, args), indent=2) if args.format == "json" else as_text(found, made))
    if out is not None and args.format == "text":
        print(f"\n{out}: a model of the system {SYSTEM.name}")


def check_relu(loaded: LoadedModel) -> None:
    """UserError for another activation, after which no unit is 0."""
    name = loaded.model.cfg.activation_fn
    if name != "relu":
        raise UserError(
            f"{loaded.checkpoint}: its activation is {name}, after which hardly a unit is 0; train on with "
            "model.activation_fn=relu (checkpoint.finetune_from_model) before its FFNs are cut"
        )


def check_can_be_cut(loaded: LoadedModel, units: int) -> None:
    """UserError for a model with experts, and for a size of experts that does not divide the FFNs."""
    model, path = loaded.model, loaded.checkpoint
    if model.cfg.moe == SYSTEM.name:
        raise UserError(f"{path}: it has been cut already; --merge puts it together again")
    if model.cfg.moe != DENSE:
        raise UserError(
            f"{path}: a {model.cfg.moe} model; a model has blocks of one system, so only a dense model can be cut "
            "(--measure works for the dense FFNs of this one too)"
        )
    for name, layer in dense_ffns(model).items():
        whole: Any = layer.fc1
        if whole.out_features % units:
            raise UserError(f"--units {units}: it does not divide the {whole.out_features} hidden units of {name}")


def cut_ffns(ffns: Mapping[Block, nn.Module], found: Recorded, args: argparse.Namespace) -> dict[Block, Made]:
    """Of each FFN its experts and their selector, one FFN after the other. UserError for too little text."""
    made = {}
    with progress_bar(len(ffns), "cutting", unit="FFN") as bar:
        for name, layer in ffns.items():
            made[name] = cut_ffn(layer, found.inputs.pop(name), args)
            bar.update()
    return made


def cut_ffn(layer: Any, x_TD: Tensor, args: argparse.Namespace) -> Made:
    """One FFN, by the tokens that it reads, float32 [tokens, D]."""
    w_in, b_in = layer.fc1.weight.detach(), layer.fc1.bias.detach()
    units = torch.from_numpy(groups_of(x_TD, w_in, b_in, args))
    here = units.to(w_in.device)
    slices = Slices(w_in[here], b_in[here])
    tokens = Tokens.of(x_TD, slices, args.seed)
    chosen, epochs, weights = chosen_of(args.choose, len(units)), None, {}
    scores_TE = tokens.held_sums
    if args.select != "oracle":
        selector: Any = similarity_selector(slices, args.choose)
        if args.select == "mlp":
            selector, epochs = mlp_selector(slices, tokens, args.choose, args.seed, args.epochs, args.seconds)
        with torch.no_grad():
            scores_TE = selector.scores(tokens.held_x)
        weights = {leaf: weight.cpu() for leaf, weight in selector.state_dict().items()}
    return Made(Cut(units, weights), chosen, quality(scores_TE, tokens.held_sums, args.choose), epochs)


def groups_of(x_TD: Tensor, w_in: Tensor, b_in: Tensor, args: argparse.Namespace) -> np.ndarray:
    """The units of each expert; int64 [E, F / E]."""
    groups = len(w_in) // args.units
    if args.split == "random":
        return partition.random_groups(len(w_in), groups, args.seed)
    affinity = partition.cosines(w_in) if args.split == "clusters" else partition.co_activation(x_TD, w_in, b_in)
    return partition.balanced_groups(affinity, groups, args.seed)


# --- what is printed ---


def as_json(found: Recorded, made: Mapping[Block, Made], args: argparse.Namespace) -> dict[str, Any]:
    """All that was measured, in plain values."""
    settings = {name: getattr(args, name) for name in ("units", "choose", "split", "select", "seed")} if made else {}
    return {
        "format": FORMAT,
        "model": str(args.model),
        "subset": args.subset,
        "sentences": found.sentences,
        "tokens": found.tokens,
        **settings,
        "active": {
            str(name): {"all": found.mean[name], "never": found.never[name], "directions": found.active[name]}
            for name in found.mean
        },
        "experts": {
            str(name): {
                "experts": len(one.cut.units),
                "chosen": one.chosen,
                **asdict(one.quality),
                "epochs": one.epochs,
            }
            for name, one in made.items()
        },
    }


def as_text(found: Recorded, made: Mapping[Block, Made]) -> str:
    """The same as tables."""
    tokens = ", ".join(f"{count:,} {side} tokens" for side, count in found.tokens.items())
    lines = [
        f"hidden units that fire for a token, % (never: for no token), of {found.sentences:,} sentences, {tokens}",
        "",
    ]
    shown = found.directions if len(found.directions) <= MOST_COLUMNS else ()
    rows = [["FFN", "all", *shown, "never"]]
    for name, by_direction in found.active.items():
        values = [found.mean[name], *(by_direction[direction] for direction in shown), found.never[name]]
        rows.append([str(name), *(f"{100 * value:.1f}" for value in values)])
    lines += aligned(rows)
    if made:
        lines += [
            "",
            "activation that the chosen experts hold, %, on tokens that were held out",
            "",
            *aligned(_experts(made)),
        ]
    return "\n".join(lines)


def _experts(made: Mapping[Block, Made]) -> list[list[str]]:
    rows = [["FFN", "experts", "chosen", "held", "best choice", "any choice", "of the best chosen", "epochs"]]
    for name, one in made.items():
        experts, measured = len(one.cut.units), one.quality
        shares = (measured.kept, measured.best, one.chosen / experts, measured.recall)
        epochs = "" if one.epochs is None else str(one.epochs)
        rows.append([str(name), str(experts), str(one.chosen), *(f"{100 * share:.1f}" for share in shares), epochs])
    return rows
