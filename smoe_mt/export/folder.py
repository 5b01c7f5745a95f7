"""What the exported folders of all formats have in common: a record of the model in config.json, a card, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from smoe_mt import __version__
from smoe_mt.checkpoints.exported import FORMAT as VERSION
from smoe_mt.checkpoints.exported import fingerprint, own_files, plain_sections
from smoe_mt.checkpoints.names import CONFIG, README
from smoe_mt.checksums import sealed
from smoe_mt.export.card import model_card, read_scores
from smoe_mt.files import write_json, write_text
from smoe_mt.folders import atomic_directory
from smoe_mt.generation.checkpoint import LoadedModel

Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One form of an exported folder.

    check   raises UserError for a model that it cannot hold
    write   (model, folder, dtype): writes all files but config.json and the card; returns their names, the weights first
    config  (model, folder, record): the content of config.json, with the record in it
    use     (record): the part of the card that says how to translate, as Markdown
    """

    check: Callable[[LoadedModel], None]
    write: Callable[[LoadedModel, Path, str], Sequence[str]]
    config: Callable[[LoadedModel, Path, Record], Record]
    use: Callable[[Record], str]


def export(loaded: LoadedModel, out: Path, name: str, licence: str | None, dtype: str, form: Format) -> None:
    """Write the model, its vocabulary and its card into `out`, in place of an earlier export's; whole or not at all.

    What else is in `out` stays, a card that a person has changed as README.md.earlier.

    `licence`: of the weights, for the card; `dtype`: fp32, bf16 or fp16, or what else the format has. Raises UserError where
    `out` cannot be written, or the format cannot hold the model.
    """
    form.check(loaded)
    with atomic_directory(out, own_files) as folder:
        names = form.write(loaded, folder, dtype)
        scores = read_scores(loaded)
        record: Record = {
            "smoe_mt_export": VERSION,
            "smoe_mt_version": __version__,
            "model_type": "smoe_mt",
            "name": name,
            "directions": loaded.task.directions,
            "parameters": count_parameters(loaded.model),
            "dtype": dtype,
            "updates": loaded.updates,
            "task_state": loaded.task.state_dict(),
            "config": plain_sections(loaded.config),
            "files": {part: fingerprint(folder / part) for part in names},
        }
        write_text(folder / README, model_card(record, loaded.task.folder.card, scores, licence, form.use(record)))
        # By which a later export knows that nobody has changed it.
        record["files"][README] = fingerprint(folder / README)
        write_json(folder / CONFIG, form.config(loaded, folder, sealed(record)))


def count_parameters(model: nn.Module) -> int:
    """Weights of a model, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
