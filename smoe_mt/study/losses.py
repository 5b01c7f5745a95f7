"""Results of a study whose systems are compared by their validation loss: RUNS/PLAN/results.json and results.md.

The loss of a whole validation set differs by a few thousandths of a bit from seed to seed where scores of its translations differ by
tenths, and it costs no translation: so it is what ablations in short trainings are compared by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smoe_mt.analysis.figures.base import FORMATS, save
from smoe_mt.errors import UserError
from smoe_mt.report.curves import read_logs
from smoe_mt.study.figures import learning_curves
from smoe_mt.study.pages import write_content
from smoe_mt.study.plan import Item, Plan
from smoe_mt.study.stages import Setup, is_trained
from smoe_mt.text_table import markdown_table


def validation_losses(folder: Path) -> list[tuple[int, float]]:
    """(update, loss in bits a token), from a training's log."""
    curves = read_logs(folder)
    return curves.of("valid", "nll_loss") if curves else []


def write_losses(plan: Plan, items: Sequence[Item], setup: Setup, page: str | None) -> list[Path]:
    """Compare the trained ones of `items`, and write; with `page`, also into its section.

    Raises:
        UserError: no run is trained yet.
    """
    trained = [item for item in items if is_trained(item, setup)]
    curves = {item.name: validation_losses(item.folder(setup.runs)) for item in trained}
    content = losses(plan, curves)
    if not content["losses"]:
        raise UserError(f"{plan.name}: none of its runs is trained yet, so nothing can be compared")
    content["left_out"] = [item.name for item in plan.items if item not in trained]
    folder = setup.runs / plan.name
    written = write_content(folder, content, as_markdown(content), page)
    save(
        learning_curves({name: [*runs.values()] for name, runs in content["curves"].items()}),
        folder / "learning_curves",
    )
    return [*(folder / f"learning_curves.{kind}" for kind in FORMATS), *written]


def losses(plan: Plan, curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Loss at the last update by system and seed, and the differences of what the plan compares, seed by seed.

    `curves`: by the name of a run, which may lack some.
    """
    found: dict[str, dict[int, Sequence[tuple[int, float]]]] = {}
    for items in plan.systems.values():
        for item in items:
            if curves.get(item.name):
                found.setdefault(item.system, {})[item.seed] = curves[item.name]
    last = {system: {seed: curve[-1][1] for seed, curve in runs.items()} for system, runs in found.items()}
    comparisons = []
    for pair in plan.comparisons:
        ours, base = last.get(pair.system, {}), last.get(pair.baseline, {})
        differences = {seed: ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys())}
        comparisons.append(
            {"system": pair.system, "baseline": pair.baseline, "question": pair.question, "differences": differences}
        )
    return {"plan": plan.name, "losses": last, "curves": found, "comparisons": comparisons}


def as_markdown(content: Mapping[str, Any]) -> str:
    """Losses, and the comparisons."""
    rows = []
    for system, by_seed in content["losses"].items():
        mean = sum(by_seed.values()) / len(by_seed)
        each = ", ".join(f"{loss:.3f}" for loss in by_seed.values())
        rows.append([system, f"{mean:.3f}", f"{2**mean:.1f}", each])
    tests = []
    for one in content["comparisons"]:
        values = [*one["differences"].values()]
        name = f"{one['system']} - {one['baseline']} ({one['question']})"
        if values:
            tests.append([name, f"{sum(values) / len(values):+.3f}", ", ".join(f"{value:+.3f}" for value in values)])
        else:
            tests.append([name, "–", "no seed has both"])
    left_out = content["left_out"]
    return "\n".join(
        [
            "Validation loss at the last update, in bits a target token; lower is better.",
            *([f"Not trained: {', '.join(left_out)}."] if left_out else []),
            "",
            markdown_table(["", "loss", "perplexity", "each seed"], rows, numbers=True),
            "",
            markdown_table(["", "difference", "each seed"], tests, numbers=True),
            "",
        ]
    )
