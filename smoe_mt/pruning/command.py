"""``smoe-mt checkpoint prune``: a checkpoint with fewer experts, which loads, translates and trains as any other.

The model reads some text; experts that are similar are grouped, and each group becomes one expert with one row in every gate that
sees it. Source: Task-Agnostic Pruning of Experts (arXiv 2407.09590); see docs/systems/pruning.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoe_mt.analysis.capacity import Request, requested_capacity
from smoe_mt.analysis.figures.base import FORMATS, save
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.schema import PRUNED
from smoe_mt.checkpoints.sharded import OPTIMISER, SHARDS
from smoe_mt.checkpoints.writing import check_is_another, check_output, write
from smoe_mt.errors import UserError
from smoe_mt.files import write_json
from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.models.sizes import activated_parameters, count_parameters
from smoe_mt.moe.names import SIDES
from smoe_mt.pruning.expert_inputs import ExpertInputs
from smoe_mt.pruning.layout import check_biases, check_blocks, layouts_of, setting_of, wanted_sizes
from smoe_mt.pruning.merging import group_biases, merged_state
from smoe_mt.pruning.plan import COUNTS, OUTPUTS, Rule, SetPlan, make_plan
from smoe_mt.pruning.report import Measured, as_json, change_table, groups_table, similarity_figure


def run(args: argparse.Namespace) -> None:
    """Prune, and say what became of it. UserError for a model whose experts cannot be merged, and for numbers that do not fit."""
    out, rule = Path(args.out), rule_of(args)
    check_output(out)
    loaded = load_model(args.model, args.data, args.device, verify=args.verify)
    check_is_another(out, loaded.checkpoint, "what is to be pruned")
    layouts = layouts_of(loaded.model, str(loaded.checkpoint))
    system = loaded.model.system
    sizes = wanted_sizes(args.experts, layouts, system)
    check_blocks(loaded.model, layouts, sizes, args.experts)
    if args.gate_bias:
        check_biases(layouts)
    request = Request(args.split, tuple(args.directions or ()), args.limit, args.max_tokens)

    inputs = ExpertInputs(layouts, args.tokens, args.seed)
    with inputs.watched():
        before = measured(loaded, request)
    plans = make_plan(layouts, sizes, rule, before.report.load, inputs)
    settings = {system.experts_setting: setting_of(sizes, system)} | ({"gate_bias": True} if args.gate_bias else {})
    write(pruned(loaded, plans, settings), out)
    after = measured(load_model(out, args.data, args.device), request)

    details = {"checkpoint": str(loaded.checkpoint.absolute()), **vars(rule), **settings}
    details |= {"split": request.split, "directions": list(before.report.directions), "limit": request.limit}
    for plan in (plan for block in plans for plan in block if plan.tokens < 2 and args.by == OUTPUTS):
        warnings.warn(f"too few tokens reach {plan.layout.name(plan.number)}: its groups are arbitrary", stacklevel=2)
    written = [out, *write_report(out, plans, as_json(plans, before, after, details))]
    print("\n".join(["", groups_table(plans), "", change_table(before, after), ""]))
    print("\n".join(map(str, written)))
    overrides = " ".join(f"'{_override(*one)}'" for one in settings.items())
    print(f"to train on: checkpoint.finetune_from_model={out} {overrides}")


def _override(name: str, value: Any) -> str:
    """A setting of the model as `smoe-mt train` takes it."""
    text = str(value).lower()
    if ";" in text:
        text = "[[" + text.replace(";", "],[") + "]]"
    elif "," in text:
        text = f"[{text}]"
    return f"model.{name}={text}"


def rule_of(args: argparse.Namespace) -> Rule:
    """UserError for `--by counts`, which makes no groups, with another way of merging than to keep."""
    merge = args.merge or ("keep" if args.by == COUNTS else "mean")
    if args.by == COUNTS and merge != "keep":
        raise UserError(f"--by counts makes no groups that could become their {merge}: leave --merge out")
    return Rule(args.by, merge, args.seed)


def measured(loaded: LoadedModel, request: Request) -> Measured:
    """Let the model read the text."""
    report = requested_capacity(loaded, request, loaded.checkpoint.stem)
    units = {side: [report.units.mean(block) for block in report.visits.side(side)] for side in SIDES}
    return Measured(report, count_parameters(loaded.model)[0], activated_parameters(loaded.model, units))


def pruned(loaded: LoadedModel, plans: Sequence[Sequence[SetPlan]], settings: dict[str, Any]) -> dict[str, Any]:
    """The model's checkpoint with merged experts, without optimiser state, for the data folder at hand. `settings` of the model
    change with it, and say whether gates get biases."""
    state = read_checkpoint(loaded.checkpoint)
    cfg = state["cfg"]
    layouts = [block[0].layout for block in plans]
    shares = [[plan.alpha for plan in block] for block in plans]
    weights = merged_state(state["model"], layouts, shares)
    if settings.get("gate_bias"):
        groups = [[plan.groups for plan in block] for block in plans]
        weights |= group_biases(state["model"], layouts, groups)
    extra = {name: value for name, value in (state.get("extra_state") or {}).items() if name == "train_iterator"}
    return {
        **{key: value for key, value in state.items() if key not in (OPTIMISER, SHARDS)},
        "cfg": {
            **cfg,
            "model": {**cfg["model"], **settings},
            "task": {**cfg["task"], "data": str(loaded.config.task.data)},
        },
        "model": weights,
        "extra_state": {**extra, "val_loss": None, PRUNED: loaded.checkpoint.name},
    }


def write_report(out: Path, plans: Sequence[Sequence[SetPlan]], content: dict[str, Any]) -> list[Path]:
    """NAME_groups.json beside NAME.pt, and the figure of similarities where there are any; what was written."""
    numbers, figure = (out.with_name(f"{out.stem}_{name}") for name in ("groups.json", "similarity"))
    drawings = [figure.with_name(f"{figure.name}.{kind}") for kind in FORMATS]
    write_json(numbers, content)
    if plans[0][0].similarity is None:
        for drawing in drawings:
            drawing.unlink(missing_ok=True)  # of an earlier model of this name
        return [numbers]
    save(similarity_figure(plans), figure)
    return [numbers, *drawings]
