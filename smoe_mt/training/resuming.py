"""The checkpoint that a run continues from: the newest intact one if the last is damaged or missing."""

from __future__ import annotations

import logging
from pathlib import Path

from smoe_mt.checkpoints.reading import check_whole, open_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView
from smoe_mt.errors import UserError

logger = logging.getLogger(__name__)

BEST = "best"  # in the names of checkpoints that are older than others


def whole_checkpoint(path: str | Path) -> Path:
    """`path`, if it is whole, or else the newest whole checkpoint of its folder, said loudly.

    Newest is the one of most updates; the best ones come after all others, as they are no steps of their own. `path` as well
    where there is no checkpoint at all.

    Raises:
        UserError: it is damaged, and there is no other to go on from.
    """
    path = Path(path)
    lost = not path.exists()  # as after a kill between the files of the first saving
    try:
        if not lost:
            check_whole(path)
            return path
        reason = UserError(f"{path} is missing")
    except UserError as error:
        reason = error
    for other in checkpoints_beside(path):
        try:
            check_whole(other)
        except UserError as error:
            logger.error(f"DAMAGED CHECKPOINT: {error}")
            continue
        if lost:
            logger.warning(
                f"{reason}: the training continues from {other} instead; to start from the beginning, choose another "
                "checkpoint.save_dir"
            )
        else:
            logger.error(f"DAMAGED CHECKPOINT: {reason}. The training continues from {other} instead")
        return other
    if lost:
        return path
    raise UserError(
        f"{reason}; there is no intact checkpoint next to it (move it away to start from the beginning)"
    ) from (reason)


def checkpoints_beside(path: Path) -> list[Path]:
    """The other checkpoints of its folder that a run could go on from, by their updates, the best ones after the others."""
    ranked = []
    for other in path.parent.glob("checkpoint*.pt"):
        updates = _updates(other) if other != path else None
        if updates is not None:
            ranked.append((BEST not in other.name, updates, other))
    return [other for _, _, other in sorted(ranked, reverse=True)]


def _updates(path: Path) -> int | None:
    """Updates made by a checkpoint that can be gone on from; None for others (averages, damaged files)."""
    try:
        state = open_checkpoint(path, foreign=True)  # of a model of fairseq's that is trained with our task, too
        view = CheckpointView(state)
        return view.updates if view.resumable else None
    except UserError:
        return None
