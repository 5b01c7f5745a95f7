"""Uploads an exported folder to a model hub, for those who have the extra ``hub`` (huggingface_hub)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.hub import MODEL_ID
from smoe_mt.errors import UserError, first_sentence


def check(name: str) -> None:
    """UserError unless `name` can be a repository's, and there is what uploads to it: asked before a model is loaded."""
    if not MODEL_ID.fullmatch(name):
        raise UserError(f"--push {name}: give the repository as OWNER/NAME")
    _client()


def upload(folder: Path, name: str, files: Sequence[str]) -> str:
    """Upload these files as one commit, and return where they are. A repository that is not there is made, private.

    Raises UserError where the hub refuses; `folder` is whole then, and can be uploaded again.
    """
    try:
        hub = _client()
        url = hub.create_repo(name, repo_type="model", private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=name,
            repo_type="model",
            folder_path=str(folder),
            allow_patterns=list(files),
            commit_message="Upload a model exported by smoe_mt",
        )
    except UserError:
        raise
    except Exception as error:  # the hub's client and the layers below it have many types for a refusal
        raise UserError(
            f"{folder} is written, but the hub did not take it as {name} ({type(error).__name__}: {first_sentence(error)}); "
            "log in with `hf auth login`, then export again with --overwrite"
        ) from error
    return f"{url}: uploaded; a new repository is private until you change that on its page"


def _client() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("--push: pip install 'smoe_mt[hub]' first") from error
    return HfApi()
