"""Checkpoints that all ranks write together, where fairseq lets the first one save alone.

The first rank goes through fairseq's saving, which decides what is saved under which names. The others wait beside it for what it
wants written, so that they need not decide the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from smoe_mt.checkpoints.reading import folder_named_by
from smoe_mt.checkpoints.sharded import (
    OPTIMISER,
    SHARDS,
    Mine,
    Shards,
    free_folder,
    remove_unnamed,
    split,
    write_tensors,
)
from smoe_mt.errors import UserError


@dataclass(frozen=True)
class ShardedSaving:
    """One rank's part in it.

    `parameters`: names in the optimiser's order; `mine`, `counts`: which experts are here, see `checkpoints.sharded.split`.
    """

    rank: int
    ranks: int
    parameters: Sequence[str]
    mine: Mine
    counts: Mapping[str, int]

    def write(self, state: Mapping[str, Any], run_folder: Path, updates: int) -> dict[str, Any]:
        """On the first rank, while the others are in `together`: the checkpoint with its tensors in a folder of their own.

        Raises OSError where a rank cannot write.
        """
        folder = free_folder(run_folder, updates)
        self._tell(str(folder))
        return self._write(state, folder)

    def _write(self, state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        self._check_optimiser(state)
        skeleton, tensors, tied = split(state, self.parameters, self.mine, self.counts)
        shards = Shards(folder.name, write_tensors(folder, tensors), tied, self.parameters)
        return {**skeleton, SHARDS: shards.state()}

    def _check_optimiser(self, state: Mapping[str, Any]) -> None:
        """UserError where its states cannot be told to be those of experts, of which other ranks have others."""
        spread = any(len(self.mine(name, count)) < count for name, count in self.counts.items())
        groups = (state.get(OPTIMISER) or {}).get("param_groups", ())
        if spread and groups and sum(len(group["params"]) for group in groups) != len(self.parameters):
            raise UserError(
                "task.sharded_checkpoints: this optimiser has other parameters than the model, so its states of the experts "
                "cannot be told apart; leave out task.sharded_checkpoints or task.expert_parallel_size"
            )

    @contextmanager
    def together(self, run_folder: Path, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Around fairseq's saving on all ranks: the first saves within, and the others help until it is done."""
        if self.rank == 0:
            try:
                yield
            finally:
                self._tell(None)
            remove_unnamed(run_folder, folder_named_by)
            return
        yield
        while (folder := self._tell(None)) is not None:
            try:
                self._write(state(), Path(folder))
            except OSError:  # which the first rank has too, and reports
                continue

    def _tell(self, folder: str | None) -> str | None:
        """What the first rank says: a folder to write, or that it is done."""
        said = [folder]
        if self.ranks > 1:
            distributed.broadcast_object_list(said, src=0)
        return said[0]


def check_sharded(cfg: Any) -> None:
    """UserError for settings under which a rank's tensors are not those of fairseq's plain checkpoint, and for an old torch."""
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
    except ImportError as error:
        raise UserError("task.sharded_checkpoints needs torch 2.8 or newer: leave it out") from error
    spread = cfg.distributed_training
    for name, harmless in (("zero_sharding", "none"), ("ddp_backend", None)):
        value = getattr(spread, name)
        if value != harmless and (name == "zero_sharding" or value in ("fully_sharded", "slow_mo")):
            raise UserError(
                f"task.sharded_checkpoints and distributed_training.{name}={value} do not go together: leave one of them out"
            )
    if cfg.ema.store_ema:
        raise UserError("task.sharded_checkpoints and ema.store_ema do not go together: leave one of them out")
