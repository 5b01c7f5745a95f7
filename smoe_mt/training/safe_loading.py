"""fairseq's own loading, made to check a checkpoint first, and to say what is wrong with it in words."""

from __future__ import annotations

from functools import wraps
from typing import Any

from fairseq import checkpoint_utils

from smoe_mt.checkpoints.reading import allow_namespaces, check_whole, damaged
from smoe_mt.errors import UserError


def put_in_place() -> None:
    """Let fairseq's loading raise a UserError for a file that is no whole checkpoint. Doing it again changes nothing."""
    allow_namespaces()
    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "says_what_is_damaged", False):
        return

    @wraps(original)
    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        check_whole(path)
        try:
            return original(path, *args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # a checkpoint of other fields than fairseq's makes it raise nearly anything
            raise damaged(path, error) from error

    load.says_what_is_damaged = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load
