"""Keeps per-direction metrics out of the text log, where they would fill the screen; hands them to MLflow.

fairseq hands the same statistics to the text progress bar and to TensorBoard, W&B and the like: with 188 directions a log
line would have hundreds of numbers. Names with a slash (`bleu/nso-en`, `loss/nso-en`) are for the latter alone. The JSON log
format, which programs read, keeps all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.training.trackers import with_mlflow

SEPARATOR = "/"


def without_detail(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics that belong on a line for people."""
    return {key: value for key, value in stats.items() if SEPARATOR not in key}


def format_stats(original: Any) -> Any:
    """What fairseq's text bars (`simple` and `tqdm`) print, without detail."""

    def shorter(self: Any, stats: Mapping[str, Any]) -> Any:
        return original(self, without_detail(stats))

    return shorter


def bar(original: Any) -> Any:
    """The function that makes all progress bars of fairseq's."""

    @wraps(original)
    def tracked(*args: Any, **settings: Any) -> Any:
        return with_mlflow(original(*args, **settings))

    return tracked


def wandb_bar(_original: Any) -> Any:
    """The bar of Weights & Biases, which writes to the run that is open (`training.trackers`)."""

    def __init__(self: Any, wrapped_bar: Any, wandb_project: str, run_name: str | None = None) -> None:
        self.wrapped_bar = wrapped_bar

    return __init__


PATCHES = (
    Patch(
        "fairseq.logging.progress_bar.WandBProgressBarWrapper.__init__",
        wandb_bar,
        "each bar, of an epoch or a validation, begins a run",
        ("self", "wrapped_bar", "wandb_project", "run_name"),
    ),
    Patch("fairseq.logging.progress_bar.progress_bar", bar, "fairseq writes to other trackers, and not to MLflow"),
    Patch(
        "fairseq.logging.progress_bar.BaseProgressBar._format_stats",
        format_stats,
        "metrics per direction go to TensorBoard and the JSON log, not to lines for people",
        ("self", "stats"),
    ),
)
