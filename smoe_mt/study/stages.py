"""The jobs of a study: text once, then for each item training, evaluation and, where it has strata, analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.names import LAST
from smoe_mt.errors import UserError
from smoe_mt.files import write_json, write_text
from smoe_mt.json_files import read_json_object
from smoe_mt.study.arguments import STAGES
from smoe_mt.study.jobs import Job
from smoe_mt.study.plan import LOSS, Item, Plan

SETTINGS = "settings.json"  # what a run is trained with, written before it starts
TRAINED = "trained"  # there once the training is over
SPLIT = "test"
STRATIFIED = "stratified"


@dataclass(frozen=True)
class Setup:
    """Where a study lies, and what is changed in all of its trainings (`extra`: overrides, such as fewer updates)."""

    runs: Path
    data: Path
    extra: tuple[str, ...] = ()
    limit: int | None = None

    def data_of(self, plan: Plan) -> Path:
        """The data folder of a plan's text."""
        return self.data / plan.corpus


def prepare_job(plan: Plan, setup: Setup) -> Job:
    """Makes the text, where it is not there."""
    folder = setup.data_of(plan)
    command = ("prepare", *plan.prepare, "--out", str(folder))
    log = setup.runs / f"prepare-{plan.corpus}.log"
    return Job("prepare", plan.corpus, command, log, (folder / "corpus.json").is_file)


def chain_of(plan: Plan, item: Item, setup: Setup, stages: Sequence[str] = STAGES) -> list[Job]:
    """What is to be done for an item, in order. UserError where it was made with other settings."""
    folder, data = item.folder(setup.runs), setup.data_of(plan)
    check_settings(folder, item, setup)
    limit = ("--limit", str(setup.limit)) if setup.limit else ()
    checkpoint = plan.checkpoint_of(item).folder(setup.runs) / LAST
    common = (str(checkpoint), "--data", str(data), "--split", SPLIT, *limit)
    results, analysis = results_of(item, setup), folder / "analysis" / SPLIT
    options = item.made.evaluate if item.made else ()
    jobs = {
        **({"train": _training(plan, item, setup)} if plan.checkpoint_of(item) is item else {}),
        "evaluate": Job(
            *("evaluate", item.name, ("evaluate", *common, *options, "--out", str(results)), folder / "evaluate.log"),
            done=(results / "scores.json").is_file,
        ),
        "analyse": Job(
            *("analyse", item.name, ("analyse", "--needed", *common, "--out", str(analysis)), folder / "analyse.log"),
            done=lambda: all((analysis / f"{name}_capacity.json").is_file() for name in ("requested", "needed")),
        ),
    }
    if plan.measure == LOSS:
        jobs = {"train": jobs["train"]}
    if item.made is not None or str(_compose(plan, item, setup).model.moe) != STRATIFIED:
        jobs.pop("analyse", None)
    return [jobs[stage] for stage in stages if stage in jobs]


def results_of(item: Item, setup: Setup) -> Path:
    """The folder of its evaluation."""
    return item.folder(setup.runs) / "evaluation" / SPLIT


def _training(plan: Plan, item: Item, setup: Setup) -> Job:
    """What makes an item's checkpoint: its training, or the edit of another one's."""
    folder, data = item.folder(setup.runs), setup.data_of(plan)
    updates = 0
    if item.made is None:
        command: tuple[str, ...] = (
            *("train", "--config", plan.config, *item.overrides, f"common.seed={item.seed}", f"task.data={data}"),
            *("task.eval_bleu=false", f"checkpoint.save_dir={folder}", *setup.extra),
        )
        updates = int(_compose(plan, item, setup).optimization.max_update)
    else:
        verb, *options = item.made.edit
        source = plan.source_of(item).folder(setup.runs) / LAST
        command = ("checkpoint", verb, str(source), str(folder / LAST), "--data", str(data), *options)
    return Job(
        *("train", item.name, command, folder / "train.log"),
        done=lambda: is_trained(item, setup),
        begin=lambda: write_json(folder / SETTINGS, settings_of(item, setup)),
        finish=lambda: write_text(folder / TRAINED, ""),
        updates=updates,
    )


def settings_of(item: Item, setup: Setup) -> dict[str, Any]:
    """What a run is trained with."""
    settings: dict[str, Any] = {"overrides": [*item.overrides], "extra": [*setup.extra], "seed": item.seed}
    if item.made is not None:
        settings["made"] = [item.made.source, *item.made.edit, *item.made.evaluate]
    return settings


def check_settings(folder: Path, item: Item, setup: Setup) -> None:
    """UserError for a run of other settings than those that are asked for."""
    if (folder / SETTINGS).is_file():
        found, wanted = read_json_object(folder / SETTINGS), settings_of(item, setup)
        if found != wanted:
            raise UserError(
                f"{folder} was trained with {found.get('overrides')} and {found.get('extra')}, not with "
                f"{wanted['overrides']} and {wanted['extra']}: use another --runs, or remove it"
            )


def is_trained(item: Item, setup: Setup) -> bool:
    """Whether an item's training has come to its end."""
    return (item.folder(setup.runs) / TRAINED).is_file()


def _compose(plan: Plan, item: Item, setup: Setup) -> Any:
    from smoe_mt.launch import compose
    from smoe_mt.paths import configs

    return compose(configs(), plan.config, [*item.overrides, *setup.extra])
