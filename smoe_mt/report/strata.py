"""The analysis of a run, as a report needs it: read where it was made, and made where it was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoe_mt.analysis.capacity import FORMAT, Request
from smoe_mt.analysis.command import NUMBERS, SENTENCES, analyse
from smoe_mt.analysis.figures import FIGURES
from smoe_mt.checkpoints.locate import results_folder
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.json_forms import Named
from smoe_mt.report.content import Picture, Text
from smoe_mt.report.run import Run, read_json
from smoe_mt.text_direction import direction_of

NUMBERS_FORM = {
    "model": str,
    "updates": int,
    "limit?": (int, type(None)),
    "ranks": str,
    "min_count": int,
    "strata": int,
    "sub_tokens?": int,
    "collapsed": [str],
    "blocks": Named(dict),
}
SIDE_FORM = {"tokens": [str], "visits": Named([float])}
SENTENCES_FORM = {"directions": Named([{"line": int, "encoder": SIDE_FORM, "decoder": SIDE_FORM}])}


@dataclass(frozen=True)
class Analysis:
    """The folder of a whole analysis, and its requested_capacity.json."""

    folder: Path
    numbers: Mapping[str, Any]

    def pictures(self, number: int) -> list[Picture]:
        """Its figures; `number` keeps the names of several runs' apart."""
        found = []
        for figure in FIGURES:
            svg, png, pdf = (self.folder / f"{figure.name}.{kind}" for kind in ("svg", "png", "pdf"))
            if svg.is_file() and png.is_file():
                name = f"{figure.name}_{number}"
                files = [file.read_bytes() for file in (svg, png, pdf) if file.is_file()]
                found.append(Picture(name, figure.title, figure.caption, *files))
        return found

    def sentences(self) -> Mapping[str, Any]:
        """What the report's sentences are made of."""
        path = self.folder / SENTENCES
        shown = read_json(path, SENTENCES_FORM) or {"directions": {}}
        sides = (
            one[side] for lines in shown["directions"].values() for one in lines for side in ("encoder", "decoder")
        )
        if any(len(visits) != len(side["tokens"]) for side in sides for visits in side["visits"].values()):
            raise UserError(f"{path}: has not a number for each token; remove it or write it again")
        directions = {name: [_written(one) for one in lines] for name, lines in shown["directions"].items()}
        strata = self.numbers["strata"]
        return {
            "strata": strata * self.numbers.get("sub_tokens", 1) if strata > 1 else 1,
            "blocks": list(self.numbers["blocks"]),
            **shown,
            "directions": directions,
        }


def _written(sentence: Mapping[str, Any]) -> dict[str, Any]:
    """The sentence, each side with the way that its text is written; tags and `</s>` are no text."""
    written = {}
    for side in ("encoder", "decoder"):
        text = "".join(token for token in sentence[side]["tokens"] if not token.startswith("<"))
        written[side] = {**sentence[side], "dir": direction_of(text)}
    return {**sentence, **written}


def analysis_of(run: Run, split: str, data: str | None, device: str) -> Analysis | Text:
    """The analysis of a run on a split, made now if there is none of this checkpoint; or why there can be none."""
    if not run.sparse:
        return Text(f"{run.name} is a dense model: it has no experts and no gates.")
    folder = results_folder(run.checkpoint, "analysis") / split
    numbers = read_json(folder / NUMBERS, dict)
    if numbers is None or numbers.get("format") != FORMAT or numbers.get("updates") != run.updates:
        try:
            analyse(load_model(run.checkpoint, data, device), Request(split), folder)
        except UserError as error:
            return Text(f"{run.name} could not be analysed: {error}", missing=True)
    numbers = read_json(folder / NUMBERS, NUMBERS_FORM) or {}
    return Analysis(folder, numbers)
