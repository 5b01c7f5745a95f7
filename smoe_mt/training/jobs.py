"""Several trainings in one process, as in a Hydra multirun: nothing of a finished job reaches the next one.

fairseq trains once per process and keeps some of a job's state where it outlives the job: the best validation score as an
attribute of functions, and TensorBoard's writers by the name of a subset, whatever their folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.logging import progress_bar

from smoe_mt.errors import UserError
from smoe_mt.training.trackers import close_runs

_folders: dict[Path, str] = {}


def forget_previous_job() -> None:
    """Drop what fairseq remembers of a job before; at the start of each."""
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    for remembered in _early_stopping():
        remembered.clear()
    for writer in progress_bar._tensorboard_writers.values():
        writer.close()
    progress_bar._tensorboard_writers.clear()
    close_runs()


def best_score() -> float | None:
    """Of the validations of this job, by `checkpoint.best_checkpoint_metric`; None before the first one."""
    best = vars(checkpoint_utils.save_checkpoint).get("best")
    return None if best is None else float(best)


def early_stopping_state() -> dict[str, float]:
    """What `checkpoint.patience` goes by, for a checkpoint: `best` score and `num_runs` without a better one, if any."""
    return {key: value for remembered in _early_stopping() for key, value in remembered.items()}


def restore_early_stopping(state: dict[str, float]) -> None:
    """Go on from the state of a checkpoint."""
    for remembered in _early_stopping():
        remembered.update(state)


def _early_stopping() -> list[dict[str, float]]:
    """fairseq keeps them as attributes of a function."""
    modules = ("fairseq_cli.train", "__main__")  # the latter for python -m fairseq_cli.train
    functions = (getattr(sys.modules.get(module), "should_stop_early", None) for module in modules)
    return [vars(function) for function in functions if function is not None]


def claim_folder(save_dir: str) -> None:
    """A folder of its own for each job of a multirun. UserError where an earlier job of this multirun has written to it."""
    job = _job_of_multirun()
    if job is None:
        return
    folder = Path(save_dir).resolve()
    owner = _folders.setdefault(folder, job)
    if owner != job:
        raise UserError(
            f"checkpoint.save_dir={save_dir} is that of job {owner} of this multirun too, and job {job} would go on from its "
            "checkpoints: put what you sweep into it, as in 'checkpoint.save_dir=runs/lr${optimization.lr[0]}'"
        )


def _job_of_multirun() -> str | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    job = HydraConfig.get().job
    return f"{job.num} ({job.override_dirname})"
