"""fairseq-train trains with `SMoETrainer`."""

from __future__ import annotations

from typing import Any

from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.training.trainer import SMoETrainer

#: Modules that have fairseq-train's main function; the second for python -m fairseq_cli.train.
TRAIN = ("fairseq_cli.train", "__main__")


def trainer(_original: Any) -> Any:
    """The class of the project's trainer."""
    return SMoETrainer


PATCHES = (
    Patch(
        "fairseq.trainer.Trainer",
        trainer,
        "checks what a job starts from, leaves out updates that are not finite, resumes exactly; fairseq has no registry",
        ("cfg", "task", "model", "criterion", "quantizer"),
        copies=TRAIN,
    ),
)
