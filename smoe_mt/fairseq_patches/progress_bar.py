"""Keeps per-direction metrics out of the text log, where they would fill the screen.

fairseq hands the same statistics to the text progress bar and to TensorBoard, W&B and the like: with 188 directions a log
line would have hundreds of numbers. Names with a slash (`bleu/nso-en`, `loss/nso-en`) are for the latter alone. The JSON log
format, which programs read, keeps all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq.logging.progress_bar import BaseProgressBar

SEPARATOR = "/"


def without_detail(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The statistics that belong on a line for people."""
    return {key: value for key, value in stats.items() if SEPARATOR not in key}


def shorten_text_log() -> None:
    """Let fairseq's text bars (`simple` and `tqdm`) leave detail out. Doing it again changes nothing."""
    original = BaseProgressBar._format_stats
    if getattr(original, "leaves_out_detail", False):
        return

    def format_stats(self: BaseProgressBar, stats: Mapping[str, Any]) -> Any:
        return original(self, without_detail(stats))

    format_stats.leaves_out_detail = True  # type: ignore[attr-defined]
    BaseProgressBar._format_stats = format_stats
