"""Where a training stood when its checkpoint was written, where its run stands now, and in what evaluations are unlike.

Everything is in plain values, as it lies in scores.json: reports read it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from smoe_mt.checkpoints.names import LAST
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView
from smoe_mt.errors import UserError
from smoe_mt.folder_lock import may_be_held
from smoe_mt.generation import LoadedModel
from smoe_mt.json_files import read_json_object
from smoe_mt.text_table import aligned

#: Entries of scores.json that have to be equal for a comparison of models alone, and what they are called.
ALIKE = {
    ("updates",): "updates",
    ("training", "vocabulary"): "vocabularies",
    ("training", "data"): "training data",
    ("training", "directions"): "directions in training",
    ("checksums", "text"): "text or references",
    ("limit",): "limits of sentences",
    ("beam",): "beam sizes",
    ("lenpen",): "length penalties",
    ("max_len_a",): "limits of length (max_len_a)",
    ("max_len_b",): "limits of length (max_len_b)",
    ("contrast",): "contrast",
    ("test_top_k",): "top-k in the test",
    ("test_top_p",): "top-p in the test",
    ("test_threshold",): "thresholds in the test",
    ("capacity",): "capacity",
    ("tokenize",): "tokenizers of BLEU",
    ("text_form",): "normalisations",
}


def training_of(loaded: LoadedModel) -> dict[str, Any]:
    """What a loaded checkpoint says of its training, and its run's last checkpoint of how far that has come since.

    None stands for what is not known: an exported model has no run, and a training need not have an end.
    """
    last = _last_of(loaded.checkpoint)
    config = (
        OmegaConf.create(last.state["cfg"]) if last else loaded.config
    )  # a run that was taken up again may be longer
    planned = {name: OmegaConf.select(config, f"optimization.{name}") or None for name in ("max_update", "max_epoch")}
    vocabulary = loaded.task.vocabulary
    return {
        "epoch": loaded.epoch,
        **planned,
        "run_updates": last.updates if last else None,
        "finished": _finished(last, config) if last else None,
        "running": may_be_held(loaded.checkpoint.parent) if last else None,
        "data": _fingerprint(loaded.trained_on),
        "directions": sorted(loaded.task.directions),
        "vocabulary": vocabulary.sha256,
    }


def _last_of(checkpoint: Path) -> CheckpointView | None:
    """The run's last checkpoint, without its weights; None where there is none, or none that can be read."""
    last = checkpoint.parent / LAST
    try:
        return CheckpointView(open_checkpoint(last)) if last.is_file() else None
    except UserError:
        return None


def _finished(last: CheckpointView, config: Any) -> bool | None:
    """Whether a training has come to its end: by updates, epochs, time or patience; None for one without an end."""
    reached = {
        "optimization.max_update": lambda end: (last.updates or 0) >= end,
        "optimization.max_epoch": lambda end: (last.epoch or 0) > end,
        "optimization.stop_time_hours": lambda end: (last.training_seconds or 0) > end * 3600,
        "checkpoint.patience": lambda end: last.worse_validations >= end,
    }
    ends = {name: end for name in reached if (end := OmegaConf.select(config, name) or 0) > 0}
    return any(reached[name](end) for name, end in ends.items()) if ends else None


def _fingerprint(data: str | None) -> str | None:
    """The checksum of a data folder's content, or its path where it is gone."""
    if not data:
        return None
    try:
        found = read_json_object(Path(data) / "corpus.json").get("sha256")
    except UserError:
        found = None
    return found if isinstance(found, str) else data


def checkpoints_table(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each evaluation (by name: the content of scores.json): its checkpoint, and how far its training is."""
    rows = [("checkpoint", "", "update", "epoch", "training")]
    for name, one in evaluations.items():
        epoch = _of(one, ("training", "epoch"))
        shown = "-" if epoch is None else str(epoch)
        rows.append((name, Path(str(one.get("checkpoint", ""))).name, _number(one.get("updates")), shown, _stands(one)))
    return aligned(rows, left=(0, 1, 4))


def _stands(one: Mapping[str, Any]) -> str:
    """Where the run of a checkpoint stands, in words."""
    at, end = _of(one, ("training", "run_updates")), _of(one, ("training", "max_update"))
    if at is None:
        return "-"
    of = f" of {end:,}" if end else ""
    early = isinstance(end, int) and at < end
    state = {True: "ended early" if early else "finished", False: "unfinished"}.get(
        _of(one, ("training", "finished")), ""
    )
    if state == "unfinished" and _of(one, ("training", "running")):
        state = "running"
    return f"at {at:,}{of}" + (f", {state}" if state else "")


def remarks(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of these evaluations side by side has to know, one line each: what is unfinished, older than its run, or
    unequal. By name: the content of scores.json.
    """
    lines = []
    unfinished = [name for name, one in evaluations.items() if _of(one, ("training", "finished")) is False]
    if unfinished:
        lines.append(f"unfinished: {', '.join(unfinished)}; scores can change until the training has come to its end")
    for name, one in evaluations.items():
        at, updates = _of(one, ("training", "run_updates")), one.get("updates")
        if isinstance(at, int) and isinstance(updates, int) and at > updates:
            lines.append(f"older than its run: {name} is of update {updates:,}, and {LAST} of update {at:,}")
    return lines + [line for path, what in ALIKE.items() if (line := _unequal(evaluations, path, what))]


def _unequal(evaluations: Mapping[str, Mapping[str, Any]], path: Sequence[str], what: str) -> str:
    values = {name: _of(one, path) for name, one in evaluations.items()}
    known = {name: value for name, value in values.items() if value is not None or path == ("limit",)}
    if len({str(value) for value in known.values()}) < 2:
        return ""
    return f"unequal {what}: " + ", ".join(f"{name} {_shown(value)}" for name, value in known.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)}"
    if isinstance(value, str) and len(value) == 64:  # a checksum
        return value[:8]
    return "all" if value is None else _number(value)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _of(content: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = content
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
