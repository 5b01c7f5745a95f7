"""What a run has left behind, read without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smoe_mt import json_files
from smoe_mt.checkpoints.locate import data_folder_of, find_checkpoint, results_folder
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.schema import updates_of
from smoe_mt.errors import UserError
from smoe_mt.evaluation.files import SCORES
from smoe_mt.json_forms import Form, fits
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.registry import DENSE
from smoe_mt.registration import register
from smoe_mt.scores_file import read_scores
from smoe_mt.tasks.data_folder import CARD_FORM


@dataclass(frozen=True)
class Run:
    """A run by its checkpoint; `config` is the checkpoint's own, in plain values."""

    name: str
    checkpoint: Path
    config: Mapping[str, Any]
    updates: int
    data: Path

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.checkpoint.parent

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's configuration."""
        return self.config["model"]

    @property
    def sparse(self) -> bool:
        """Whether the model has experts."""
        return str(self.model["moe"]) != "none"

    @property
    def row(self) -> str:
        """The model's name among `configs/model`."""
        return row_name(self.model)

    @cached_property
    def card(self) -> Mapping[str, Any] | None:
        """corpus.json of the data folder, or None where that is gone."""
        return read_json(self.data / "corpus.json", CARD_FORM)

    @cached_property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """scores.json of each split that was evaluated."""
        files = sorted(results_folder(self.checkpoint, "evaluation").glob(f"*/{SCORES}"))
        found = {file.parent.name: read_scores(file) for file in files}
        return {split: scores for split, scores in found.items() if scores["directions"]}


def open_run(path: str, name: str, data: str | None) -> Run:
    """The run of a folder or checkpoint. UserError where there is no whole checkpoint of this plugin."""
    checkpoint = find_checkpoint(path)
    register()
    state = open_checkpoint(checkpoint)  # the weights of a large model are not read for a look at its settings
    config, updates = state["cfg"], updates_of(state)
    folder = Path(data) if data else data_folder_of(config, checkpoint) or Path()
    return Run(name, checkpoint, config, updates, folder)


def read_json(path: Path, form: Form) -> dict[str, Any] | None:
    """A JSON object, or None for a file that is not there. UserError for one that is damaged, or of another form."""
    if not path.is_file():
        return None
    remedy = "remove it or write it again"
    content = json_files.read_json_object(path, remedy)
    if not fits(content, form):
        raise UserError(f"{path}: lacks what a report needs of it, or has it in another form; {remedy}")
    return content


def row_name(model: Mapping[str, Any]) -> str:
    """What a model's configuration is called in `configs/model`; the paper's tables need not have such a row."""
    kind = str(model["moe"])
    return "dense" if kind == DENSE else SYSTEMS[kind].row_name(model)
