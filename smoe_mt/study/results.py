"""The results of a study: RUNS/PLAN/results.json and results.md, from what its runs have left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.evaluation.metrics.bleu import METRIC as BLEU
from smoe_mt.evaluation.metrics.chrf import METRIC as CHRF
from smoe_mt.evaluation.resampling import Sampled, difference, holm, interval, over_seeds, sample_sentences
from smoe_mt.evaluation.significance import check_same_text
from smoe_mt.json_files import read_json_object
from smoe_mt.study.capacity import capacity_tables
from smoe_mt.study.costs import as_markdown as costs_table
from smoe_mt.study.costs import costs_of
from smoe_mt.study.figures import draw_all
from smoe_mt.study.losses import validation_losses
from smoe_mt.study.pages import write_content
from smoe_mt.study.plan import Item, Plan
from smoe_mt.study.stages import SPLIT, Setup, is_trained, results_of
from smoe_mt.tasks.data_folder import TRAINING, DataFolder
from smoe_mt.text_table import markdown_table

METRICS = {"chrf": CHRF, "bleu": BLEU}
MAIN = "chrf"
ALL = "all"


def write_results(plan: Plan, items: Sequence[Item], setup: Setup, page: str | None) -> list[Path]:
    """Compare what was evaluated, and write; with `page`, also into its section. UserError where nothing can be compared."""
    planned = plan
    ready = [item for item in items if (results_of(item, setup) / "scores.json").is_file()]
    plan = plan.of_systems({item.system for item in ready})
    seeds = [seed for seed in plan.seeds if {item.system for item in ready if item.seed == seed} >= {*plan.systems}]
    if not seeds:
        raise UserError(
            f"{plan.name}: no seed has evaluations of several of its systems yet, so nothing can be compared"
        )
    runs = [item for items in plan.systems.values() for item in items if item.seed in seeds]
    corpora = [read_hypotheses(results_of(item, setup)) for item in runs]
    for item, texts in zip(runs, corpora):
        check_same_text([*corpora[0].values()], [*texts.values()], (runs[0].name, item.name))
    sampled = {name: sample_sentences(corpora, metric) for name, metric in METRICS.items()}
    content = results(plan, seeds, sampled, planned.tests)
    content["validation_loss"] = {item.name: validation_losses(item.folder(setup.runs)) for item in runs}
    content["seeds_left_out"] = [seed for seed in planned.seeds if seed not in {item.seed for item in ready}]
    content["left_out"] = [
        item.name for item in planned.items if item not in runs and item.seed not in content["seeds_left_out"]
    ]
    content["unfinished"] = {
        item.name: updates
        for item in runs
        if (updates := _updates(item, setup)) and not is_trained(planned.checkpoint_of(item), setup)
    }
    content["not_tested"] = sorted(planned.questions - plan.questions)
    needed = {item.name: item.folder(setup.runs) / "analysis" / SPLIT / "needed_capacity.json" for item in runs}
    content["needed_capacity"] = {name: read_json_object(path) for name, path in needed.items() if path.is_file()}
    content["training_pairs"] = _training_pairs(setup.data_of(planned), sampled[MAIN].directions)
    if plan.costs:
        content["costs"] = costs_of(planned, runs, setup)
    folder = setup.runs / plan.name
    written = write_content(folder, content, as_markdown(plan, content), page)
    return [*draw_all(plan, content, folder), *written]


def _updates(item: Item, setup: Setup) -> int:
    return int(read_json_object(results_of(item, setup) / "scores.json").get("updates", 0))


def _training_pairs(data: Path, directions: Sequence[str]) -> dict[str, int]:
    """Sentence pairs of each direction's training text; none where the data folder is elsewhere."""
    if not data.is_dir():
        return {}
    folder = DataFolder.open(data)
    return {direction: folder.count(TRAINING, direction) for direction in directions}


def read_hypotheses(folder: Path) -> dict[str, Corpus]:
    """By direction, from the tables of an evaluation."""
    found = {}
    for path in sorted(folder.rglob("*.tsv")):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[1:-1]]
        sources, hypotheses, references = (tuple(column) for column in zip(*rows))
        found[path.stem] = Corpus(path.stem, sources, hypotheses, references)
    return found


def results(plan: Plan, seeds: Sequence[int], sampled: Mapping[str, Sampled], planned: int) -> dict[str, Any]:
    """Scores of all systems, and what the plan compares; runs in `sampled` stand system by system, each with all seeds.

    `planned`: for how many tests p-values are corrected, those that could not be made included.
    """
    directions = sampled[MAIN].directions
    groups = {ALL: directions, **{name: plan.directions_of(name, directions) for name in plan.classes}}
    groups |= {direction: (direction,) for direction in directions}
    place = {system: slice(n * len(seeds), (n + 1) * len(seeds)) for n, system in enumerate(plan.systems)}

    def values(metric: str, system: str, group: str) -> tuple[np.ndarray, np.ndarray]:
        columns = [directions.index(direction) for direction in groups[group]]
        one = sampled[metric]
        return one.scores[place[system]][:, columns].mean(1), one.samples[place[system]][:, columns].mean(1)

    used = [group for group in groups if groups[group]]
    scores = {m: {s: {g: _summary(*values(m, s, g)) for g in used} for s in plan.systems} for m in sampled}
    comparisons = []
    for pair in plan.comparisons:
        found = {m: {g: _difference(values, m, pair.system, pair.baseline, g) for g in used} for m in sampled}
        comparisons.append({**asdict(pair), "differences": found})
    content: dict[str, Any] = {"plan": plan.name, "seeds": [*seeds], "scores": scores, "comparisons": comparisons}
    if plan.gap and groups[plan.gap.first] and groups[plan.gap.second]:
        parts = [
            [a - b for a, b in zip(values(MAIN, plan.gap.system, group), values(MAIN, plan.gap.baseline, group))]
            for group in (plan.gap.first, plan.gap.second)
        ]
        found_gap = asdict(difference(parts[0][0] - parts[1][0], parts[0][1] - parts[1][1]))
        content["gap"] = {**asdict(plan.gap), "difference": found_gap}
    tests = [(one, one["differences"][MAIN][ALL]) for one in comparisons]
    tests += [(content["gap"], content["gap"]["difference"])] if "gap" in content else []
    p_values = [found["p"] for _, found in tests] + [1.0] * (planned - len(tests))
    for (one, _), corrected in zip(tests, holm(p_values)):
        one["p_corrected"] = corrected
    return content


Values = Callable[[str, str, str], tuple[np.ndarray, np.ndarray]]


def _difference(values: Values, metric: str, system: str, baseline: str, group: str) -> dict[str, Any]:
    (scores, samples), (base, base_samples) = values(metric, system, group), values(metric, baseline, group)
    return asdict(difference(scores - base, samples - base_samples))


def _summary(scores_S: np.ndarray, samples_SR: np.ndarray) -> dict[str, Any]:
    low, high = interval(over_seeds(samples_SR))
    return {"mean": float(scores_S.mean()), "low": low, "high": high, "by_seed": [*map(float, scores_S)]}


def as_markdown(plan: Plan, content: Mapping[str, Any]) -> str:
    """Scores by class and direction, and the comparisons."""
    tests = [_row(one["system"], one["baseline"], one["question"], one["differences"][MAIN][ALL], one["p_corrected"])
             for one in content["comparisons"]]  # fmt: skip
    if "gap" in content:
        gap = content["gap"]
        tests.append(
            _row(
                gap["system"],
                gap["baseline"],
                f"{gap['question']}: {gap['first']} less {gap['second']}",
                gap["difference"],
                gap["p_corrected"],
            )
        )
    test_head = ["", "difference", "95% interval", "t interval", "each seed", "p", "p corrected"]
    return "\n".join(
        [
            f"Means over seeds {', '.join(map(str, content['seeds']))}.",
            *_gaps(content),
            "",
            _scores_table(plan, content["scores"]),
            "",
            *([costs_table(content["costs"]), ""] if "costs" in content else []),
            "Differences of mean chrF++; intervals over seeds and sentences, and over seeds alone (t); p over both.",
            "",
            markdown_table(test_head, tests, numbers=True),
            "",
            *capacity_tables(content),
        ]
    )


def _scores_table(plan: Plan, scores: Mapping[str, Any]) -> str:
    """A row for each system, or for each direction where these are more."""
    groups = [*next(iter(scores[MAIN].values()))]
    table = [["", "BLEU", *(f"chrF++ {group}" for group in groups)]]
    for system in plan.systems:
        cells = [scores["bleu"][system][ALL], *(scores[MAIN][system][group] for group in groups)]
        table.append([system, *(f"{one['mean']:.1f}" for one in cells)])
    if len(groups) > len(plan.systems):
        table = [[*row] for row in zip(*table)]
    return markdown_table(table[0], table[1:], numbers=True)


def _gaps(content: Mapping[str, Any]) -> list[str]:
    """What was planned and is not there."""
    lines = []
    if content["seeds_left_out"]:
        lines.append(f"Planned and not run: seeds {', '.join(map(str, content['seeds_left_out']))}.")
    if content["left_out"]:
        lines.append(f"Without scores: {', '.join(content['left_out'])}.")
    if content["not_tested"]:
        lines.append(f"Not tested: {', '.join(content['not_tested'])}.")
    if content["unfinished"]:
        stopped = ", ".join(f"{name} ({updates:,} updates)" for name, updates in content["unfinished"].items())
        lines.append(f"Stopped before the last update: {stopped}.")
    return lines


def _row(system: str, baseline: str, question: str, one: Mapping[str, Any], corrected: float) -> list[str]:
    t = "–" if one["t_low"] is None else f"{one['t_low']:+.2f} to {one['t_high']:+.2f}"
    return [
        f"{system} - {baseline} ({question})",
        f"{one['mean']:+.2f}",
        f"{one['low']:+.2f} to {one['high']:+.2f}",
        t,
        ", ".join(f"{value:+.2f}" for value in one["by_seed"]),
        f"{one['p']:.3f}",
        f"{corrected:.3f}",
    ]
