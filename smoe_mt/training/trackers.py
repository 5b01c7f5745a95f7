"""A training's run in Weights & Biases (``common.wandb_project``) and in MLflow (``task.mlflow_experiment``), beside TensorBoard.

fairseq writes to Weights & Biases itself, and would begin a run with each of its progress bars; what is here begins one at the door, so
that a missing package or login is one line, and ends it before the next job of a multirun. Of MLflow fairseq knows nothing: `with_mlflow`
puts a progress bar around its own, as it does for the others.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from numbers import Number
from typing import Any

import torch
from fairseq.logging import progress_bar
from fairseq.logging.meters import AverageMeter

from smoe_mt.errors import UserError, first_sentence

logger = logging.getLogger(__name__)

LONGEST = 500  # letters of a parameter that every store of MLflow takes
AT_ONCE = 100  # parameters that they take in one call

_mlflow: Any = None  # the module, while a run of it is open
_described = False  # whether that run has the configuration


def check_installed(cfg: Any) -> None:
    """UserError for a tracker that is asked for and is not installed. `cfg`: a whole configuration of a training."""
    project, experiment = cfg.common.wandb_project, _experiment(cfg)
    if project and progress_bar.wandb is None:
        raise UserError(
            f"common.wandb_project={project}: Weights & Biases is not installed: pip install 'smoe_mt[wandb]'"
        )
    if experiment:
        _import_mlflow(experiment)


def open_runs(cfg: Any) -> None:
    """Begin a run in each tracker that is asked for. UserError where it cannot be reached, or wants a login."""
    global _mlflow, _described
    name = os.path.basename(os.path.normpath(cfg.checkpoint.save_dir))
    project, experiment = cfg.common.wandb_project, _experiment(cfg)
    if project:
        try:
            progress_bar.wandb.init(project=project, name=os.environ.get("WANDB_NAME", name))
        except Exception as error:  # of its own and of the network
            raise UserError(
                f"common.wandb_project={project}: Weights & Biases does not begin a run ({first_sentence(error)}); `wandb login`, "
                "or WANDB_MODE=offline in the environment, which writes to the disk alone"
            ) from error
    if experiment:
        module = _import_mlflow(experiment)
        try:
            module.set_experiment(experiment)
            module.start_run(run_name=name)
        except Exception as error:  # as above
            raise UserError(
                f"task.mlflow_experiment={experiment}: MLflow does not begin a run ({first_sentence(error)}); MLFLOW_TRACKING_URI "
                "in the environment says where: a server, or a file on the disk as in sqlite:///mlflow.db"
            ) from error
        _mlflow, _described = module, False


def close_runs() -> None:
    """End what an earlier job of this process has opened."""
    global _mlflow
    wandb = progress_bar.wandb
    if wandb is not None and wandb.run is not None:
        wandb.finish()
    if _mlflow is not None:
        _mlflow.end_run()
        _mlflow = None


def with_mlflow(bar: Any) -> Any:
    """A progress bar of fairseq's that writes to the open run of MLflow too; the bar itself where there is none."""
    return bar if _mlflow is None else MLflowBar(bar)


class MLflowBar(progress_bar.BaseProgressBar):  # type: ignore[misc]
    """Around another bar, as fairseq's for Weights & Biases."""

    def __init__(self, wrapped_bar: Any) -> None:
        self.wrapped_bar = wrapped_bar

    def __iter__(self) -> Iterator[Any]:
        return iter(self.wrapped_bar)

    def log(self, stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Statistics within an epoch."""
        _write(stats, tag, step)
        self.wrapped_bar.log(stats, tag=tag, step=step)

    def print(self, stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Those of an epoch or a validation."""
        _write(stats, tag, step)
        self.wrapped_bar.print(stats, tag=tag, step=step)

    def update_config(self, config: Mapping[str, Any]) -> None:
        """The configuration, which fairseq gives again at each epoch; once."""
        global _described
        if not _described:
            _described = True
            parameters = list(_flat(config))
            for start in range(0, len(parameters), AT_ONCE):
                _call("log_params", dict(parameters[start : start + AT_ONCE]))
        self.wrapped_bar.update_config(config)


def _flat(config: Mapping[str, Any], front: str = "") -> Iterator[tuple[str, str]]:
    """Each setting by its path, such as common/seed."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{front}{name}/")
        else:
            yield f"{front}{name}", str(value)[:LONGEST]


def _write(stats: Mapping[str, Any], tag: str | None, step: int | None) -> None:
    numbers = {name: _number(value) for name, value in stats.items() if name != "num_updates"}
    front = f"{tag}/" if tag else ""
    # A store on the disk makes folders of what stands before a slash: bleu and bleu/nso-en would be a file and a folder.
    found = {f"{front}{name.replace('/', '.')}": value for name, value in numbers.items() if value is not None}
    _call("log_metrics", found, step=stats["num_updates"] if step is None else step)


def _number(value: Any) -> float | None:
    value = value.val if isinstance(value, AverageMeter) else value
    if isinstance(value, Number) or (torch.is_tensor(value) and value.numel() == 1):
        return float(value)  # type: ignore[arg-type]
    return None


def _call(name: str, *args: Any, **settings: Any) -> None:
    """No tracker ends a training: what fails is reported once, and training continues without it."""
    global _mlflow
    if _mlflow is None:
        return
    try:
        getattr(_mlflow, name)(*args, **settings)
    except Exception as error:  # noqa: BLE001 - of its own, of the network, of the disk
        _mlflow = None
        logger.warning(f"MLflow takes no more of this run ({first_sentence(error)}); training continues without it")


def _experiment(cfg: Any) -> str | None:
    return getattr(cfg.task, "mlflow_experiment", None)


def _import_mlflow(experiment: str) -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise UserError(
            f"task.mlflow_experiment={experiment}: MLflow is not installed: pip install 'smoe_mt[mlflow]'"
        ) from error
