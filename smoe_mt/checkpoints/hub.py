"""Exported models from a model hub, for those who have the extra ``hub`` (huggingface_hub). Nothing but data is fetched."""

from __future__ import annotations

import re
from pathlib import Path

from smoe_mt.checkpoints.names import CONFIG, PARTS, README
from smoe_mt.errors import UserError

MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def looks_like_model_id(path: str | Path) -> bool:
    """Whether `path` could be OWNER/NAME. Where its first part is a folder here, it is a misspelt path."""
    text = str(path)
    return bool(MODEL_ID.fullmatch(text)) and not text.endswith(".pt") and not Path(text).parent.exists()


def fetch(model_id: str) -> Path:
    """The folder of an exported model of the hub, fetched unless it was before. UserError where it cannot be had."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{model_id}: no such folder or checkpoint; to fetch it from the model hub: pip install 'smoe_mt[hub]'"
        ) from error
    try:
        return Path(snapshot_download(model_id, allow_patterns=[CONFIG, README, *PARTS]))
    except Exception as error:  # the hub's client and the layers below it have many types for "not there"
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{model_id}: no such folder or checkpoint here, and the model hub did not give it "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason'})"
        ) from error
