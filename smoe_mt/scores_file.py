"""What others than the evaluation that wrote it read of a scores.json: model cards and reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json_object
from smoe_mt.json_forms import Named, fits

FORM = {
    "directions": Named({"signatures?": Named(str)}),
    "classes?": Named(Named((dict, type(None)))),
    "metrics?": Named(str),
    "limit?": (int, type(None)),
    "left_out?": {"sentences": int, "directions": [str]},
    "measured?": {"context": int, "blocks": Named(dict), "weak_blocks?": Named(dict)},
}
#: The usual search, and the words for another one.
SEARCH = {"beam": 5, "lenpen": 1.0, "max_len_a": 2.0, "max_len_b": 10, "min_len": 1, "tokenize": "auto"}
#: How the model was used otherwise than it was trained: contrast of two routings, or another routing.
ROUTING = {
    "contrast": None,
    "contrast_rank": 2,
    "contrast_alpha": 0.1,
    "contrast_encoder": False,
    "test_top_k": None,
    "test_top_p": None,
    "test_threshold": None,
    "capacity": None,
}
USUAL = SEARCH | ROUTING
WORDS = {
    "lenpen": "length penalty",
    "tokenize": "BLEU tokenizer",
    "contrast_rank": "contrast rank",
    "contrast_alpha": "contrast alpha",
    "contrast_encoder": "contrast in the encoder",
    "test_top_k": "top-k in the test",
    "test_top_p": "top-p in the test",
    "test_threshold": "threshold in the test",
}
REMEDY = "evaluate again, or remove it"


def read_scores(path: Path) -> dict[str, Any]:
    """The content of a scores.json. UserError for one that is damaged, or that no evaluation wrote."""
    content = read_json_object(path, REMEDY)
    if not fits(content, FORM):
        raise UserError(f"{path}: holds no scores of directions; {REMEDY}")
    return content


def partial(scores: Mapping[str, Any]) -> str:
    """What of the text was not translated, in words; empty where all of it was."""
    left_out, limit = scores.get("left_out"), scores.get("limit")
    count = len(scores["directions"])
    if left_out is None:  # of an earlier version
        return f"first {limit} sentences of each direction" if limit else ""
    parts = [f"first {limit} sentences of each direction"] if left_out["sentences"] else []
    parts += [f"{count} of {count + len(left_out['directions'])} directions"] if left_out["directions"] else []
    return ", ".join(parts)


def unusual(scores: Mapping[str, Any], usual: Mapping[str, Any] = USUAL) -> str:
    """What of the search, the routing and the scoring is not as usual, in words; empty where all is."""
    other = {name: scores[name] for name, value in usual.items() if name in scores and scores[name] != value}
    return ", ".join(WORDS.get(name, name) + ("" if value is True else f" {value}") for name, value in other.items())


def title(scores: Mapping[str, Any], text: str) -> str:
    """The name of a result for people: that of its text, and what is not the usual. Equal titles may stand side by side."""
    return ", ".join(filter(None, (text, unusual(scores), partial(scores) and f"partial ({partial(scores)})")))
