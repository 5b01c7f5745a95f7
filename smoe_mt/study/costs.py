"""What the systems of a study cost: parameters, FLOPs of a token as they were measured, hidden units, speed of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from smoe_mt.checkpoints.names import LAST
from smoe_mt.report.curves import read_logs
from smoe_mt.report.run import open_run
from smoe_mt.report.size import flops_of_result
from smoe_mt.scores_file import read_scores
from smoe_mt.study.plan import Item, Plan
from smoe_mt.study.stages import Setup, results_of
from smoe_mt.text_table import markdown_table


def costs_of(plan: Plan, items: Sequence[Item], setup: Setup) -> dict[str, dict[str, float | None]]:
    """By system, of the first of its items: ``parameters``; ``flops`` of a token, forward, as its evaluation measured its routing;
    hidden ``units`` that a token asks for in a block, mean over the blocks; ``tokens_per_second`` of its training, median over its
    log. None for what was not measured: nothing is trained where a checkpoint was edited or used with another routing.
    """
    found: dict[str, dict[str, float | None]] = {}
    for item in items:
        if item.system not in found:
            found[item.system] = _costs(plan, item, setup)
    return found


def _costs(plan: Plan, item: Item, setup: Setup) -> dict[str, float | None]:
    run = open_run(str(plan.checkpoint_of(item).folder(setup.runs) / LAST), item.name, str(setup.data_of(plan)))
    scores = read_scores(results_of(item, setup) / "scores.json")
    blocks = (scores.get("measured") or {}).get("blocks", {})
    units = [float(one["units"]) for one in blocks.values()]
    return {
        "parameters": run.parameters["total"] if run.parameters else None,
        "flops": flops_of_result(run.model, run.vocabulary, scores),
        "units": sum(units) / len(units) if units else None,
        "tokens_per_second": None if item.made else _speed(item.folder(setup.runs)),
    }


def _speed(folder: Path) -> float | None:
    curves = read_logs(folder)
    speeds = [speed for _, speed in curves.of("train_inner", "wps")] if curves else []
    return median(speeds) if speeds else None


def as_markdown(costs: Mapping[str, Mapping[str, float | None]]) -> str:
    """A table, a row for each system."""

    def cell(value: float | None, form: str, scale: float = 1.0) -> str:
        return "–" if value is None else format(value / scale, form)

    rows = [
        [
            system,
            cell(one["parameters"], ".2f", 1e6),
            cell(one["flops"], ".2f", 1e6),
            cell(one["units"], ",.0f"),
            cell(one["tokens_per_second"], ",.0f"),
        ]
        for system, one in costs.items()
    ]
    head = ["", "M parameters", "MFLOPs a token, measured", "hidden units a token and block", "tokens/s in training"]
    return markdown_table(head, rows, numbers=True)
