"""Settings of validation, of what is kept and of the end of a training that cannot do together what they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoe_mt.errors import UserError

#: What validation logs, and whether more of it is better; a metric of one direction is called NAME/DIRECTION.
LOWER, HIGHER = ("loss", "nll_loss", "ppl"), ("bleu", "accuracy")
OF_DIRECTIONS = ("nll_loss", "ppl", "bleu")
KNOWN_CRITERIONS = ("stratified_routing", "label_smoothed_cross_entropy", "cross_entropy")

Groups = Mapping[str, Mapping[str, Any]]


def check_best_metric(groups: Groups) -> None:
    """UserError for a best metric that validation never logs, or that is compared the wrong way round."""
    settings = groups["checkpoint"]
    metric = settings.get("best_checkpoint_metric")
    if metric is None or groups["dataset"].get("disable_validation"):
        return
    name, _, direction = str(metric).partition("/")
    said = f"checkpoint.best_checkpoint_metric={metric}"
    if name == "bleu" and not groups["task"].get("eval_bleu", True):
        raise UserError(f"{said}: BLEU is measured with task.eval_bleu=true alone")
    criterion = groups["criterion"]
    if name == "accuracy" and not criterion.get("report_accuracy", True):
        raise UserError(f"{said}: it is measured with criterion.report_accuracy=true alone")
    unknown = name not in (*LOWER, *HIGHER) or (bool(direction) and name not in OF_DIRECTIONS)
    if unknown and criterion.get("_name") in KNOWN_CRITERIONS:
        raise UserError(
            f"{said}: a checkpoint is the best by {', '.join((*LOWER, *HIGHER))}, or by {', '.join(OF_DIRECTIONS)} of one "
            "direction (bleu/nso-en)"
        )
    maximised = bool(settings.get("maximize_best_checkpoint_metric"))
    if name in HIGHER and not maximised:
        raise UserError(f"{said}: more is better, so set checkpoint.maximize_best_checkpoint_metric=true")
    if name in LOWER and maximised:
        raise UserError(f"{said}: less is better, so leave out checkpoint.maximize_best_checkpoint_metric")
    if direction and (settings.get("keep_best_checkpoints") or 0) > 0:
        raise UserError(f"{said}: checkpoint.keep_best_checkpoints names files after it, which a / cannot be part of")


def check_kept(groups: Groups) -> None:
    """UserError for checkpoints that are to be kept and are never written, and for a best one where nothing is validated."""
    settings, dataset = groups["checkpoint"], groups["dataset"]

    def wanted(name: str) -> bool:
        return (settings.get(name) or 0) > 0

    for name in ("patience", "keep_best_checkpoints"):
        if wanted(name) and dataset.get("disable_validation"):
            raise UserError(
                f"checkpoint.{name}={settings[name]} goes by validation: leave out dataset.disable_validation or this"
            )
    if dataset.get("disable_validation") and groups["lr_scheduler"].get("_name") == "reduce_lr_on_plateau":
        raise UserError("lr_scheduler reduce_lr_on_plateau goes by validation: leave out dataset.disable_validation")
    if wanted("keep_last_epochs") and settings.get("no_epoch_checkpoints"):
        raise UserError(
            f"checkpoint.keep_last_epochs={settings['keep_last_epochs']}, but checkpoint.no_epoch_checkpoints=true writes none: "
            "change one"
        )
    if wanted("keep_interval_updates") and settings.get("save_interval_updates") == 0:
        raise UserError(
            f"checkpoint.keep_interval_updates={settings['keep_interval_updates']}, but checkpoint.save_interval_updates=0 "
            "writes none: change one"
        )
    last, first = groups["optimization"].get("max_update") or 0, dataset.get("validate_after_updates") or 0
    if 0 < last < first and not dataset.get("disable_validation"):
        raise UserError(
            f"dataset.validate_after_updates={first:,} is after the last update ({last:,}): nothing would be validated and no "
            "best checkpoint kept; lower it, or set dataset.disable_validation=true"
        )


def check_end(groups: Groups) -> None:
    """UserError for a training that never ends, and for a schedule that has to know the last update and does not."""
    optimization, schedule = groups["optimization"], groups["lr_scheduler"]
    if not {"max_update", "max_epoch"} <= optimization.keys() or optimization["max_update"]:
        return
    name = schedule.get("_name")
    needs = {
        "polynomial_decay": not schedule.get("total_num_update", 1),
        "cosine": (schedule.get("lr_period_updates") or 0) <= 0,
        "tri_stage": bool(schedule.get("phase_ratio")),
    }
    if needs.get(str(name)):
        also = ", or lr_scheduler.total_num_update (updates of all epochs)" if name == "polynomial_decay" else ""
        raise UserError(
            f"lr_scheduler {name} has to know the last update: give optimization.max_update{also}, or take another lr_scheduler"
        )
    others = (optimization.get("stop_time_hours") or 0) > 0 or (groups["checkpoint"].get("patience") or 0) > 0
    if not optimization["max_epoch"] and not others and (optimization.get("stop_min_lr") or -1) < 0:
        raise UserError(
            "when does the training end? give optimization.max_update, optimization.max_epoch, optimization.stop_time_hours or "
            "checkpoint.patience"
        )
