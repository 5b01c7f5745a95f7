"""What others than the evaluation that wrote it read of a scores.json: model cards and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json_object
from smoe_mt.json_forms import Named, fits

FORM = {
    "directions": Named({"signatures?": Named(str)}),
    "classes?": Named(Named((dict, type(None)))),
    "metrics?": Named(str),
}
REMEDY = "evaluate again, or remove it"


def read_scores(path: Path) -> dict[str, Any]:
    """The content of a scores.json. UserError for one that is damaged, or that no evaluation wrote."""
    content = read_json_object(path, REMEDY)
    if not fits(content, FORM):
        raise UserError(f"{path}: holds no scores of directions; {REMEDY}")
    return content
