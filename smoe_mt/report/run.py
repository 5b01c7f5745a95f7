"""What a run has left behind, read without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smoe_mt import json_files
from smoe_mt.checkpoints.inspection import count_parameters
from smoe_mt.checkpoints.locate import data_folder_of, find_checkpoint, results_folder
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView, updates_of
from smoe_mt.errors import UserError
from smoe_mt.evaluation.files import SCORES
from smoe_mt.json_forms import Form, fits
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.registry import DENSE
from smoe_mt.registration import register
from smoe_mt.scores_file import read_scores, title
from smoe_mt.tasks.data_folder import CARD_FORM


@dataclass(frozen=True)
class Result:
    """An evaluation: its folder, and the content of its scores.json."""

    folder: Path
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run by its checkpoint; `config` is the checkpoint's own, in plain values."""

    name: str
    checkpoint: Path
    config: Mapping[str, Any]
    updates: int
    data: Path
    parameters: Mapping[str, Any] | None = None
    vocabulary: int = 0
    training_seconds: float | None = None

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
    def results(self) -> dict[str, Result]:
        """Each evaluation by its title: that of the split, where all of it was evaluated with the usual search."""
        files = sorted(results_folder(self.checkpoint, "evaluation").glob(f"*/{SCORES}"))
        found = [Result(file.parent, read_scores(file)) for file in files]
        return {_title(one.folder.name, one.scores): one for one in found if one.scores["directions"]}

    @property
    def scores(self) -> dict[str, Mapping[str, Any]]:
        """The scores of each evaluation by its title."""
        return {name: result.scores for name, result in self.results.items()}

    def result_of(self, split: str) -> tuple[str, Result] | None:
        """Title and evaluation of a split: of all of it with the usual search, or else the first that there is."""
        found = {
            title: one for title, one in self.results.items() if title == split or one.scores.get("split") == split
        }
        title = split if split in found else next(iter(found), None)
        return None if title is None else (title, found[title])

    @property
    def outdated(self) -> list[str]:
        """Titles of scores that are of another number of updates than the checkpoint has now."""
        return [name for name, one in self.scores.items() if one.get("updates", self.updates) != self.updates]


def _title(folder: str, scores: Mapping[str, Any]) -> str:
    split, source = scores.get("split"), scores.get("source")
    text = f"{Path(source).name} ({', '.join(scores['directions'])})" if isinstance(source, str) else folder
    return title(scores, split if isinstance(split, str) else text)


def open_run(path: str, name: str, data: str | None) -> Run:
    """The run of a folder or checkpoint. UserError where there is no whole checkpoint of this plugin."""
    checkpoint = find_checkpoint(path)
    register()
    state = open_checkpoint(checkpoint)  # the weights of a large model are not read for a look at its settings
    config, updates = state["cfg"], updates_of(state)
    folder = Path(data) if data else data_folder_of(config, checkpoint) or Path()
    embeddings = next((w for n, w in state["model"].items() if n.endswith("embed_tokens.weight")), ())
    seconds = CheckpointView(state).training_seconds
    return Run(name, checkpoint, config, updates, folder, count_parameters(state), len(embeddings), seconds)


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
