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
    """What is to be done for an item, in order. UserError where it was trained with other settings."""
    folder, data = item.folder(setup.runs), setup.data_of(plan)
    config = _compose(plan, item, setup)
    updates = int(config.optimization.max_update)
    check_settings(folder, item, setup)
    train = [
        *("train", "--config", plan.config, *item.overrides, f"common.seed={item.seed}", f"task.data={data}"),
        *(f"checkpoint.save_dir={folder}", *setup.extra),
    ]
    checkpoint, results = str(folder / LAST), folder / "evaluation" / SPLIT
    limit = ("--limit", str(setup.limit)) if setup.limit else ()
    common = (checkpoint, "--data", str(data), "--split", SPLIT, *limit, "--out")
    analysis = folder / "analysis" / SPLIT
    jobs = {
        "train": Job(
            *("train", item.name, tuple(train), folder / "train.log"),
            done=lambda: is_trained(item, setup),
            begin=lambda: write_json(folder / SETTINGS, settings_of(item, setup)),
            finish=lambda: write_text(folder / TRAINED, ""),
            updates=updates,
        ),
        "evaluate": Job(
            *("evaluate", item.name, ("evaluate", *common, str(results)), folder / "evaluate.log"),
            done=(results / "scores.json").is_file,
        ),
    }
    if plan.measure == LOSS:
        return [jobs["train"]] if "train" in stages else []
    if str(config.model.moe) == STRATIFIED:
        jobs["analyse"] = Job(
            *("analyse", item.name, ("analyse", "--needed", *common, str(analysis)), folder / "analyse.log"),
            done=lambda: all((analysis / f"{name}_capacity.json").is_file() for name in ("requested", "needed")),
        )
    return [jobs[stage] for stage in stages if stage in jobs]


def settings_of(item: Item, setup: Setup) -> dict[str, Any]:
    """What a run is trained with."""
    return {"overrides": [*item.overrides], "extra": [*setup.extra], "seed": item.seed}


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
