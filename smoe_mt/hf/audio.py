"""transformers without torchaudio where that cannot be imported.

fairseq brings torchaudio, which is often made for another torch; transformers imports it with its pipelines wherever it is
installed, and ends with its error. Nothing here needs it.
"""

from __future__ import annotations

import importlib
import importlib.util

import transformers.utils


def leave_out_broken_torchaudio() -> None:
    """Let transformers think that it is not installed. Changes nothing where it can be imported, or is not there."""
    if importlib.util.find_spec("torchaudio") is None:
        return
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError):
        transformers.utils.is_torchaudio_available = lambda: False
