"""Curves of training: from a run's TensorBoard events, or from fairseq's log where there are none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smoe_mt.json_files import parse_json
from smoe_mt.report.run import Run

PARTS = ("train_inner", "valid")
Series = list[tuple[int, float]]

# A line may be of any length: each pattern takes time in proportion to it.
PART = re.compile(r"[\[|\s](train_inner|valid)[\]|\s]")
CONTENT = re.compile(r"\{|epoch\s")
NUMBER = re.compile(r"(?<![\w/.])([\w/.]+)[= ](-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=[,\s]|$)")
LONGEST_LINE = 1 << 20  # characters that are held at a time


@dataclass(frozen=True)
class Curves:
    """`series[part][tag]`: (update, value) in order; `source` says where they were read."""

    series: Mapping[str, Mapping[str, Series]]
    source: str

    def of(self, part: str, tag: str) -> Series:
        """A curve, empty where there is none."""
        return self.series.get(part, {}).get(tag, [])

    def tags(self, part: str, prefix: str) -> list[str]:
        """The curves whose names begin so, in natural order."""
        return sorted((t for t in self.series.get(part, {}) if t.startswith(prefix)), key=_natural)


def _natural(tag: str) -> list[str]:
    return [piece.zfill(20) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", tag)]


def read_curves(run: Run) -> Curves | None:
    """The curves of a run, or None where it has neither events nor a log."""
    for folder in _event_folders(run):
        events = [*folder.glob("*/events.out.tfevents.*")]
        if events and all(file.is_file() for file in events):  # a pipe, or a link to a device, would have no end
            return Curves({part: _events(folder / part) for part in PARTS}, str(folder))
    return read_logs(run.folder)


def read_logs(folder: Path) -> Curves | None:
    """The curves of the newest of a folder's logs that has any."""
    logs = sorted(filter(Path.is_file, folder.glob("*.log")), key=lambda path: path.stat().st_mtime)
    for log in reversed(logs):
        with log.open(encoding="utf-8", errors="replace") as lines:
            series = parse_log(iter(lambda: lines.readline(LONGEST_LINE), ""))
        if any(series.values()):
            return Curves(series, str(log))
    return None


def _event_folders(run: Run) -> list[Path]:
    configured = (run.config.get("common") or {}).get("tensorboard_logdir")
    # A run that was moved keeps its events beside it, under the name that they had.
    return [run.folder / "tensorboard", *([run.folder / Path(configured).name, Path(configured)] if configured else [])]


def _events(folder: Path) -> dict[str, Series]:
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0: all of them
    events.Reload()
    return {tag: _ordered((e.step, e.value) for e in events.Scalars(tag)) for tag in events.Tags()[SCALARS]}


def parse_log(lines: Iterable[str]) -> dict[str, dict[str, Series]]:
    """fairseq's log, its own text (`simple`, `tqdm`) or JSON (`json`)."""
    series: dict[str, dict[str, Series]] = {part: {} for part in PARTS}
    for line in lines:
        part, content = _split(line.rstrip())
        values = _values(content, part)
        update = values.pop("num_updates", math.nan)
        if not math.isfinite(update):
            continue
        for tag, value in values.items():
            series[part].setdefault(tag, []).append((int(update), value))
    return {part: {tag: _ordered(points) for tag, points in tags.items()} for part, tags in series.items()}


def _split(line: str) -> tuple[str, str]:
    """The part that a line is about, and the text or JSON with its values; both empty where it has none."""
    part = PART.search(line)
    if part is not None:
        for content in CONTENT.finditer(line, part.end()):
            if content[0] != "{" or line.endswith("}"):
                return part[1], line[content.start() :]
    return "", ""


def _values(content: str, part: str) -> dict[str, float]:
    if content.startswith("{"):
        try:
            found = parse_json(content)
        except ValueError:
            return {}
        if not isinstance(found, dict):
            return {}
        pairs = [(key.removeprefix(f"{part}_"), value) for key, value in found.items()]
    else:
        pairs = NUMBER.findall(content)
    values = {}
    for key, value in pairs:
        try:
            values[key] = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return values


def _ordered(points: Iterable[tuple[int, float]]) -> Series:
    """By update; where a training was taken up again, what was measured last counts."""
    return sorted(dict(points).items())
